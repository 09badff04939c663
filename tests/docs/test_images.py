"""Pictures of pages: each is there, small, shown by a page, and made by a command that a page names."""

from pathlib import Path

from schemas.limits import KIB

CHECKOUT = Path(__file__).parents[2]
IMAGES = sorted((CHECKOUT / "docs" / "images").glob("*.png"))
BYTES_MAX = 150 * KIB


def test_pictures_of_the_console_are_small_and_each_is_shown() -> None:
    console, readme = (CHECKOUT / "docs" / "console.md").read_text(), (CHECKOUT / "README.md").read_text()

    assert len(IMAGES) == 5
    for image in IMAGES:
        assert image.read_bytes().startswith(b"\x89PNG"), image.name
        assert image.stat().st_size <= BYTES_MAX, image.name
        assert f"](images/{image.name})" in console, image.name
    assert "](docs/images/console-rollout.png)" in readme


def test_the_command_that_takes_them_is_named_where_they_are_shown() -> None:
    for page in ("README.md", "docs/console.md"):
        assert "`make screenshots`" in (CHECKOUT / page).read_text(), page
    assert "\nscreenshots:" in (CHECKOUT / "Makefile").read_text()
