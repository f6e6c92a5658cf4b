"""The page: facts into one HTML document that asks for nothing else."""

from __future__ import annotations

import base64
import hashlib
import shlex
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from exporter.report import words
from exporter.report.facts import Facts
from runtime.backends.plan import FLAVOURS
from runtime.tables import signal_to_noise

_FOLDER = "templates"
_FILTERS = ("number", "percent", "file_size", "shape", "tensor", "rms", "largest", "relative")


def page_from_facts(facts: Facts) -> str:
    """The whole document; every text of the manifest is escaped in it.

    The policy in its head lets no script run but its own and nothing be loaded, so that
    even a fault in the escaping would do no harm.
    """
    script = _asset("page.js")
    return (
        _environment()
        .get_template("page.html")
        .render(
            facts=facts,
            manifest=facts.manifest,
            standing=facts.standing,
            command=_command(facts),
            extra=_extra(facts),
            style=Markup(_asset("page.css")),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("exporter.report", _FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update({name: getattr(words, name) for name in _FILTERS})
    environment.filters["signal_to_noise"] = signal_to_noise
    extras: dict[str, Any] = {"at_most": words.at_most, "NOTHING": words.NOTHING}
    environment.globals.update(extras)
    return environment


def _asset(name: str) -> str:
    return (files("exporter.report") / _FOLDER / name).read_text(encoding="utf-8")


def _command(facts: Facts) -> str:
    """What runs the proof of this version again."""
    name = shlex.quote(f"REPOSITORY/{facts.model}")
    return f"twinport parity {name} --version {facts.manifest.version}"


def _extra(facts: Facts) -> str:
    """The extra of ``pip install`` that brings what runs the artifact."""
    engine = facts.manifest.artifact.engine
    return "cpu" if engine is None else FLAVOURS[engine.flavour].extra
