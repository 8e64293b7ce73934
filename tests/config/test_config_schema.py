"""The exported JSON Schema says what the model says."""

import msgspec

from kairos.config import model
from kairos.config.schema import export


def test_every_section_and_its_docstrings_are_there():
    schema = export()
    parts = schema["$defs"]
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$ref"] == "#/$defs/Config"
    assert set(parts["Config"]["properties"]) == {field.encode_name for field in msgspec.structs.fields(model.Config)}
    assert parts["Backend"]["properties"]["port"]["description"] == "By default that of the scheme."
    assert parts["Limits"]["description"].startswith("What one client may ask")


def test_comment_keys_pass_and_others_do_not():
    for part in export()["$defs"].values():
        if part.get("type") == "object":
            assert part["additionalProperties"] is False
            assert part["patternProperties"]


def test_bounds_and_choices_are_there():
    parts = export()["$defs"]
    assert parts["Backend"]["properties"]["weight"]["minimum"] == 1
    assert "p2c" in parts["Route"]["properties"]["load_balancing_strategy"]["enum"]
    assert parts["Route"]["required"] == ["external_path", "internal_path", "methods"]


def test_sections_for_failing_backends_are_there():
    parts = export()["$defs"]
    for name, section in (
        ("circuit_breaker", "CircuitBreaker"),
        ("health_check", "HealthCheck"),
        ("outlier_detection", "OutlierDetection"),
        ("load_shedding", "LoadShedding"),
    ):
        assert f"#/$defs/{section}" in str(parts["Config"]["properties"][name])
        assert parts[section]["description"]
    route = parts["Route"]["properties"]
    for name in ("retry", "hedge", "circuit_breaker", "health_check", "outlier_detection", "queue"):
        assert "#/$defs/" in str(route[name])
    assert route["priority"]["description"].startswith("The lowest are shed first")
    assert parts["Retry"]["properties"]["max_retries"]["maximum"] == 10
    statuses = parts["HealthCheck"]["properties"]["expected_status"]["items"]["anyOf"]
    assert {"enum": ["2xx", "3xx", "4xx", "5xx"]} in statuses
    assert {"type": "integer", "minimum": 100, "maximum": 599} in statuses
