"""What is generated from the schemas: fresh, complete and true."""

from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from schemas import codec, topics
from schemas.document import Document
from tools.examples import EXAMPLES, MORE_EXAMPLES
from tools.generate_schemas import CARRIES, LEVELS, as_json, json_schema, main, outputs, stale, write

CHECKOUT = Path(__file__).parents[2]


def test_what_is_committed_is_fresh() -> None:
    assert stale(CHECKOUT) == []


def test_check_names_what_is_stale_and_writes_nothing(tmp_path: Path) -> None:
    write(tmp_path)
    changed, extra, missing = (tmp_path / path for path in ("broker-config/acl", "schemas/json/gone.json", "schemas/asyncapi.yaml"))
    changed.write_text("user eve\ntopic readwrite #\n")
    extra.write_text("{}")
    missing.unlink()
    said: list[str] = []

    code = main(["--check"], root=tmp_path, say=said.append)

    assert code == 1
    assert all(str(path.relative_to(tmp_path)) in "".join(said) for path in (changed, extra, missing))
    assert not missing.exists()


def test_write_mends_what_is_stale_and_only_that(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "schemas/json/gone.json").write_text("{}")
    (tmp_path / "broker-config/acl").write_text("")

    assert write(tmp_path) == ["broker-config/acl", "schemas/json/gone.json"]
    assert stale(tmp_path) == []


def test_a_fleet_whose_name_is_none_gets_no_access_list() -> None:
    said: list[str] = []

    assert main(["--acl", "a\nuser eve"], say=said.append) == 2
    assert "name.invalid" in said[0]


def test_every_document_has_an_example_and_a_schema() -> None:
    kinds = {type(example) for example in EXAMPLES}

    assert set(documents(Document)) == kinds
    assert {f"schemas/json/{kind.schema_name}.json" for kind in kinds} <= outputs().keys()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.schema_name)
def test_a_document_in_json_is_what_its_schema_says(example: Document) -> None:
    schema = json_schema(type(example))
    Draft202012Validator.check_schema(schema)

    assert list(Draft202012Validator(schema).iter_errors(as_json(example))) == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.schema_name)
def test_a_schema_refuses_what_the_document_does_not_have(example: Document) -> None:
    validator = Draft202012Validator(json_schema(type(example)))

    assert not validator.is_valid({**as_json(example), "row": [1.5, 2.5]})
    assert not validator.is_valid({})


def test_every_topic_has_its_channel_message_and_operations() -> None:
    api = yaml.safe_load((CHECKOUT / "schemas" / "asyncapi.yaml").read_text())

    assert set(api["channels"]) == set(CARRIES) == {kind.name for kind in topics.TABLE}
    for kind in topics.TABLE:
        assert api["operations"][f"{kind.writer}-send-{kind.name}"]["bindings"]["mqtt"] == {
            "qos": 1,
            "retain": kind.retained,
            "bindingVersion": "0.2.0",
        }
        assert all(api["operations"][f"{reader}-receive-{kind.name}"]["action"] == "receive" for reader in kind.readers)


def test_every_reference_in_the_asyncapi_document_leads_somewhere() -> None:
    api = yaml.safe_load((CHECKOUT / "schemas" / "asyncapi.yaml").read_text())

    for reference in references(api):
        if reference.startswith("#/"):
            target = api
            for part in reference[2:].split("/"):
                target = target[part]
        else:
            assert (CHECKOUT / "schemas" / reference).is_file()


def test_the_addresses_are_those_that_the_code_speaks() -> None:
    api = yaml.safe_load((CHECKOUT / "schemas" / "asyncapi.yaml").read_text())
    values = {"fleet": "main", "model": "delay", "digest": "00" * 32, "node": "node-a", "cohort": "nyc"}
    spoken = topics.Topics("main")

    for name, channel in api["channels"].items():
        address = spoken.parse(channel["address"].format(**values))

        assert address.kind == name
        assert address.levels == tuple(values[level] for level in LEVELS.get(name, ("node",) if "{node}" in channel["address"] else ()))


def test_an_example_in_the_asyncapi_document_is_a_real_message() -> None:
    api = yaml.safe_load((CHECKOUT / "schemas" / "asyncapi.yaml").read_text())
    by_name = {example.schema_name: example for example in EXAMPLES}

    for name, (kind, _) in CARRIES.items():
        if kind is not None:
            example, *more = api["components"]["messages"][name]["examples"]

            assert example["payload"] == as_json(by_name[kind.schema_name])
            assert [one["payload"] for one in more] == [as_json(one) for _, one in MORE_EXAMPLES if type(one) is kind]
            assert all(Draft202012Validator(json_schema(kind)).is_valid(one["payload"]) for one in more)
            assert len(codec.encode(by_name[kind.schema_name])) <= kind.bytes_max


def documents(base: type[Document]) -> list[type[Document]]:
    """Every document that the package defines."""
    found = [kind for kind in base.__subclasses__() if kind.__module__.startswith("schemas.")]
    return [*found, *(deeper for kind in found for deeper in documents(kind))]


def references(node: object) -> list[str]:
    """Every `$ref` in a description."""
    if isinstance(node, list):
        return [found for item in node for found in references(item)]
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in references(value)]
    return []
