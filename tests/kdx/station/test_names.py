"""What the names of files say of parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdx.errors import OptionError
from kdx.station.broker import Broker, parse_broker, parse_brokers
from kdx.station.bundles import bundle_paths
from kdx.station.names import PartName, name_pattern


def test_the_groups_are_found_in_the_path():
    pattern = name_pattern(r"^(?P<product>\w+)/(?P<part>\d+)", has_products=True)
    assert pattern.read("nut/0042-x.png") == PartName("0042", "nut", None)
    assert pattern.read("else.png") == PartName()
    assert name_pattern(None).read("nut/1.png") == PartName()
    views = name_pattern(None, r"(?P<part>\d+)_(?P<view>[a-z]+)", ["top", "side"])
    assert views.read("7_top.png") == PartName("7", None, "top")


def test_a_part_is_to_be_found_where_the_expression_has_its_group_and_files_are_parts():
    assert name_pattern(r"(?P<part>\d+)").has_part
    assert not name_pattern(None).has_part
    assert not name_pattern(r"(?P<product>\w)", has_products=True).has_part
    assert not name_pattern(None, r"(?P<part>\d+)_(?P<view>[a-z]+)", ["top"]).has_part  # a reason says it


def test_the_product_is_found_in_the_part():
    pattern = name_pattern(r"(?P<part>\w+-\d+)", product=r"^(?P<product>[a-z]+)", has_products=True)
    assert pattern.read("left/nut-7.png") == PartName("nut-7", "nut", None)
    assert pattern.read("left/7-7.png") == PartName("7-7", None, None)
    assert pattern.read("left/else.png") == PartName()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"part_id": "(?P<part>x)", "product": "(", "has_products": True}, "not a regular expression"),
        ({"part_id": "(?P<part>x)", "product": "(x)", "has_products": True}, "lacks the group product"),
        ({"part_id": "(?P<product>x)", "product": "(?P<product>x)", "has_products": True}, "lacks the group part"),
        ({"part_id": "(?P<part>x)", "product": "(?P<product>x)"}, "has no effect"),
        ({"part_id": "("}, "not a regular expression"),
        ({"part_id": r"(\d+)"}, "lacks the group part"),
        ({"part_id": r"(?P<part>\d+)", "has_products": True}, "lacks the group product"),
        ({"part_id": None, "has_products": True}, "lacks the group product"),
        ({"part_id": "(?P<part>x)", "part_of": "(?P<part>x)(?P<view>y)", "views": ["a"]}, "both say"),
        ({"part_id": None, "part_of": "(?P<part>x)", "views": ["a"]}, "lacks the group view"),
        (
            {"part_id": None, "part_of": "(?P<part>x)(?P<view>y)", "views": ["a"], "has_products": True},
            "`part_of` lacks the group product",
        ),
        ({"part_id": None, "part_of": "(?P<part>x)(?P<view>y)"}, "need both"),
        ({"part_id": None, "views": ["a"]}, "need both"),
    ],
)
def test_patterns_that_say_too_little_are_refused(given, message):
    with pytest.raises(OptionError, match=message):
        name_pattern(**given)


def test_views_of_products_need_the_product_in_the_name_or_in_the_part():
    views = {"part_of": r"(?P<product>[a-z]+-)?(?P<part>[a-z]*\d+)_(?P<view>[a-z]+)", "views": ["top"]}
    assert name_pattern(None, **views, has_products=True).read("nut-7_top.png") == PartName("7", "nut-", "top")
    pattern = name_pattern(None, **views, product="(?P<product>[a-z]+)", has_products=True)
    assert pattern.read("nut7_top.png") == PartName("nut7", "nut", "top")


def test_bundles_by_product(tmp_path):
    assert bundle_paths(["a.kdx"]) == {None: Path("a.kdx")}
    assert bundle_paths(["a=a.kdx", "b=x/b.kdx"]) == {"a": Path("a.kdx"), "b": Path("x/b.kdx")}
    (tmp_path / "a=b.kdx").mkdir()
    assert bundle_paths([str(tmp_path / "a=b.kdx")]) == {None: tmp_path / "a=b.kdx"}
    for given in (["a.kdx", "b.kdx"], ["a=a.kdx", "a=b.kdx"], ["a=a.kdx", "b.kdx"], ["b.kdx", "a=a.kdx"]):
        with pytest.raises(OptionError, match="need a product each"):
            bundle_paths(given)


def test_brokers(monkeypatch):
    monkeypatch.setenv("KDX_MQTT_PASSWORD", "secret")
    found = parse_broker("mqtts://line%203@broker.local:8884/plant/line3")
    assert found == Broker("broker.local", 8884, "plant/line3", is_secure=True, user="line 3", password="secret")
    assert "secret" not in repr(found)
    for given in ({"mqtt": "mqtt://[::1]/t"}, {"mqtt": "mqtt://[::1]/t", "trigger": "mqtt://b/t"}):
        with pytest.raises(OptionError, match=f"no user is named by {' and '.join(f'`{name}`' for name in given)}"):
            parse_brokers(**given)
    assert parse_brokers(mqtt=None, trigger=None) == {"mqtt": None, "trigger": None}
    monkeypatch.delenv("KDX_MQTT_PASSWORD")
    assert parse_brokers(mqtt="mqtt://[::1]/t", trigger=None)["mqtt"].port == 1883


def test_the_password_of_one_broker_is_not_refused_because_the_other_has_no_user(monkeypatch):
    monkeypatch.setenv("KDX_MQTT_PASSWORD", "secret")
    brokers = parse_brokers(mqtt="mqtts://line@plant/verdicts", trigger="mqtt://station/trigger")
    assert [(brokers[name].user, brokers[name].password) for name in ("mqtt", "trigger")] == [
        ("line", "secret"),
        (None, None),
    ]


@pytest.mark.parametrize(
    "url",
    [
        "broker/t",
        "http://broker/t",
        "mqtt://broker",
        "mqtt://broker/",
        "mqtt://b/t/#",
        "mqtt://b:99999/t",
        "mqtt://u:p@b/t",
    ],
)
def test_other_urls_are_refused(url):
    with pytest.raises(OptionError, match="`mqtt`"):
        parse_broker(url)
