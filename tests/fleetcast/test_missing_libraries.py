"""What the dynamic linker says becomes a sentence that names the library and Debian's package of it."""

import pytest

from fleetcast.missing_libraries import missing_library, package_of


@pytest.mark.parametrize(
    ("library", "package"),
    [
        ("libgomp.so.1", "libgomp1"),
        ("libstdc++.so.6", "libstdc++6"),
        ("libgcc_s.so.1", "libgcc-s1"),
        ("libusb-1.0.so.0", "libusb-1.0-0"),
        ("libopenblas.so.0", "libopenblas0"),
        ("libz.so.1", "zlib1g"),
        ("libGL.so.1", "libgl1"),
        ("libunversioned.so", None),
    ],
)
def test_a_library_has_the_package_that_debian_12_has_it_in(library: str, package: str | None) -> None:
    assert package_of(library) == package


def test_the_linkers_words_become_a_sentence_with_the_package() -> None:
    said = "ImportError: libgomp.so.1: cannot open shared object file: No such file or directory"

    assert missing_library(said) == "the shared library libgomp.so.1 is not installed; on Debian: apt-get install libgomp1"


def test_a_library_without_a_version_is_looked_for_by_its_name() -> None:
    said = "/opt/vendor/libvendor.so: cannot open shared object file: No such file or directory"

    assert "`apt-file search libvendor.so` names its package" in (missing_library(said) or "")


@pytest.mark.parametrize("said", ["", "No module named 'xllamacpp'", "libgomp.so.1: file too short", "model.gguf: no such file"])
def test_other_errors_are_not_taken_for_a_missing_library(said: str) -> None:
    assert missing_library(said) is None
