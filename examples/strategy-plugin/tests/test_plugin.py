"""hydrakit finds the plugin, and all of its components."""

from hydrakit.plugins import load_plugins

MODULE = "hydrakit_polish"


def test_hydrakit_finds_all_components() -> None:
    records = [each for each in load_plugins().records if each.module == MODULE]
    assert records, "the plugin is not installed: `pip install -e '.[test]'`"
    assert (records[0].error, records[0].clashes) == (None, ())
    assert dict(records[0].offers) == {
        "strategy": ("polish",),
    }
