"""The commands of ``twinport`` that need torch, one a file: parse, call, print."""
