"""The examples in docstrings of what `import fleetcast` offers do what they say."""

import doctest
from importlib import import_module
from pkgutil import iter_modules

import fleetcast.fleets


def test_every_example_in_a_docstring_does_what_it_says() -> None:
    modules = [import_module(f"fleetcast.fleets.{one.name}") for one in iter_modules(fleetcast.fleets.__path__)]

    results = {module.__name__: doctest.testmod(module) for module in modules}

    assert not [name for name, one in results.items() if one.failed]
    assert sum(one.attempted for one in results.values()) >= 5
