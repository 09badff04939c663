"""Pages that are drawn from code: they are fresh, say something of everything, and need no folder to be where it is today."""

import re
import tomllib
from pathlib import Path

import click
import pytest

from tools import commands, folders, generate_docs, markdown, sentences, settings

CHECKOUT = Path(__file__).parents[2]


def test_the_pages_are_as_the_code_draws_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate_docs.main(["--check"]) == 0
    assert capsys.readouterr().out == ""


def test_every_setting_has_one_plain_sentence_or_two() -> None:
    models = settings.models(CHECKOUT)
    assert {"HubSettings", "NodeSettings", "RelaySettings"} <= {model.__name__ for model in models}

    tables = [part for model in models for part in (model, *settings.tables(model))]
    said = {f"{part.__name__}.{name}": settings.meaning(part, name, field) for part in tables for name, field in part.model_fields.items()}

    assert [name for name, text in said.items() if not text.endswith(".") or text.startswith(("of ", "Of "))] == []


def test_every_exit_code_of_both_programs_has_its_sentence() -> None:
    for function in commands.programs(CHECKOUT).values():
        commands.command_of(function)
        codes = commands.exit_codes(function.partition(".")[0])
        assert len(codes) > 10
        assert [code for code, meaning in codes if not meaning.endswith(".")] == []


def test_every_command_has_a_section_with_its_options_and_examples() -> None:
    page = (CHECKOUT / "docs" / "commands.md").read_text(encoding="utf-8")

    for name, function in commands.programs(CHECKOUT).items():
        for command, context in commands.every(commands.command_of(function), name):
            section = page.partition(f"# `{context.command_path}`\n")[2].partition("\n#")[0]
            assert section
            options = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
            assert [option.opts[0] for option in options if option.opts[0] not in section] == []
            assert isinstance(command, click.Group) or "\nExample" in section, context.command_path


def test_the_map_has_every_package_and_module_of_a_checkout_wherever_it_is(tmp_path: Path) -> None:
    for path, text in {
        "one/__init__.py": '"""Does one thing. And more."""',
        "one/deep/room/__init__.py": '"""Deep | down."""',
        "one/deep/__init__.py": '"""Goes down."""',
        "one/deep/room/thing.py": '"""Does that thing, of 1.5 sizes. More."""',
        "pages/README.md": "# Title\n\n![picture](x)\n\nAll pages. More.\n",
        "nothing/file.txt": "",
        ".hidden/__init__.py": '"""Hidden."""',
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    assert [line for line in folders.lines(tmp_path) if line] == [
        *markdown.table(
            ["folder", "what it is for"],
            [
                ("`one/`", "Does one thing."),
                ("`one/deep/`", "Goes down."),
                ("`one/deep/room/`", "Deep | down."),
                ("`pages/`", "All pages."),
            ],
        ),
        "### Modules of `one/deep/room/`",
        *markdown.table(["module", "what it does"], [("`thing`", "Does that thing, of 1.5 sizes.")]),
    ]


def test_nothing_that_ships_imports_what_stays_in_the_checkout() -> None:
    shipped = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    stays = re.compile(r"^\s*(?:from|import) (?:tools|bench|deploy|tests)\b", re.MULTILINE)

    files = [path for package in shipped for path in CHECKOUT.glob(f"{package}/**/*.py")]
    assert files
    assert [str(path) for path in files if stays.search(path.read_text(encoding="utf-8"))] == []


def test_what_is_written_behind_or_above_a_name_is_its_sentence(tmp_path: Path) -> None:
    file = tmp_path / "settings.py"
    file.write_text(
        "class A:\n    # Above,\n    # in two lines.\n    one: int = 1\n    two = (\n        2\n    )  # Behind.\n    three: str\n"
    )

    assert sentences.of_names(file) == {"A": {"one": "Above, in two lines.", "two": "Behind."}}


def test_a_stale_page_is_named_and_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("old")
    monkeypatch.setattr(generate_docs, "outputs", lambda _: {"docs/page.md": "new", "docs/more.md": "more"})

    assert generate_docs.main(["--check"], tmp_path) == 1
    assert capsys.readouterr().out.splitlines() == [f"stale: docs/{name}.md; run `make generate`" for name in ("page", "more")]
    assert (tmp_path / "docs" / "page.md").read_text() == "old"
    assert generate_docs.main([], tmp_path) == 0
    assert (tmp_path / "docs" / "more.md").read_text() == "more"
