"""Why a module cannot be exported: which module of it, which line, and what usually helps."""
