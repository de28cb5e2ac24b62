import logging

import orjson

from neural_condense_core.serving.logs import JsonFormatter


def line(record):
    return orjson.loads(JsonFormatter().format(record))


def record(message, *args, **fields):
    made = logging.LogRecord("a.b", logging.WARNING, "x.py", 1, message, args, None)
    made.__dict__.update(fields)
    return made


def test_facts_are_fields_of_their_own():
    found = line(record("took %d ms", 5, facts={"status": 200, "request_id": "7"}))
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "level": "warning",
        "logger": "a.b",
        "message": "took 5 ms",
        "status": 200,
        "request_id": "7",
    }


def test_an_exception_keeps_its_frames_and_loses_its_message():
    private = "the vault opens at noon"
    try:
        raise ValueError(private)
    except ValueError as error:
        found = line(record("failed", exc_info=(ValueError, error, error.__traceback__)))
    assert found["exception"].startswith("ValueError (its message is withheld)")
    assert "test_an_exception" in found["exception"]
    assert "vault" not in str(found)
