"""Logs: one event a line on stderr, for people or as JSON, whatever is in it."""

import json
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

log = structlog.get_logger()


def configure_logs(log_format: str, level: str) -> None:
    """Our events, those of the libraries, warnings and what ends a thread go the same way."""
    human = log_format == "human"
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S" if human else "iso", utc=not human),
    ]
    renderers: list[Processor] = (
        [in_one_line, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)]
        if human
        else [structlog.processors.format_exc_info, as_json]
    )
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),  # a line at once, so that threads do not mix theirs
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)
    logging.captureWarnings(True)
    threading.excepthook = on_thread_failure


def is_json() -> bool:
    """Whether the log is configured, and for programs."""
    return structlog.is_configured() and as_json in structlog.get_config()["processors"]


def on_thread_failure(failure: threading.ExceptHookArgs) -> None:
    log.critical(
        "thread_failed", thread=failure.thread.name if failure.thread else None, exc_info=failure.exc_value or True
    )


def as_json(_logger: Any, _method: str, event: EventDict) -> str:
    """JSON as its standard has it, of ASCII alone; what is no JSON becomes its `repr`."""
    try:
        return json.dumps(event, default=repr, allow_nan=False)
    except (TypeError, ValueError, RecursionError):  # a key that is none, nan, what contains itself
        plain = {key: value if isinstance(value, str | int | None) else repr(value) for key, value in event.items()}
        return json.dumps(plain)


# --- for people -----------------------------------------------------------------------------------------------


def in_one_line(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Exceptions as what they say and where they passed; what would break the line, or drive a terminal, escaped."""
    error = raised(event.pop("exc_info", None))
    if error is not None:
        event["raised"] = "; ".join(told(error))
    if stack := event.pop("stack_info", None):
        event["stack"] = stack
    return {key: printable(value) for key, value in event.items()}


def raised(exc_info: Any) -> BaseException | None:
    """`logging` takes an error, a triple, or true for the one that is being handled."""
    if isinstance(exc_info, BaseException):
        return exc_info
    found: BaseException | None = (exc_info if isinstance(exc_info, tuple) else sys.exc_info())[1] if exc_info else None
    return found


def told(error: BaseException) -> Iterator[str]:
    """The error, then those that it came from."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        frames = [
            f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
            for frame in reversed(traceback.extract_tb(link.__traceback__))
        ]
        where = f" (Traceback, innermost first: {', '.join(frames)})" if frames else ""
        yield f"{'from ' if link is not error else ''}{type(link).__name__}: {link}{where}"
        if isinstance(link, BaseExceptionGroup):
            for part in link.exceptions:
                yield from (f"in it {line}" for line in told(part))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def printable(value: object) -> object:
    text = value if isinstance(value, str) else repr(value)
    return value if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
