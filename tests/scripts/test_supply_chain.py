"""scripts/supply_chain.py: lock, pins, licences and bill of materials agree, and a lock is read whole or refused."""

import json
import sys
from email.message import Message
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import supply_chain
from supply_chain import Licence, Locked

HASH = "0" * 63
TWO = f"""# a comment
Some_Pack.age==1.2+cpu \\
    --hash=sha256:{HASH}1 \\
    --hash=sha256:{HASH}2
    # via
    #   other
other==3 \\
    --hash=sha256:{HASH}3
"""
PACKAGES = [Locked("some-pack-age", "1.2+cpu", (f"{HASH}1", f"{HASH}2")), Locked("other", "3", (f"{HASH}3",))]


def test_the_files_of_this_repository_agree():
    assert supply_chain.wrong() == []


def test_a_lock_is_read_with_the_hashes_of_every_file():
    assert supply_chain.read_lock(TWO) == PACKAGES


@pytest.mark.parametrize("line", ["other==3\n", "other>=3 --hash=sha256:" + HASH + "1\n", "-e .\n"])
def test_a_line_without_a_version_or_a_hash_is_refused(line):
    with pytest.raises(ValueError, match=r"requirements\.lock: .* is not NAME==VERSION with sha256 hashes"):
        supply_chain.read_lock(line)


@pytest.mark.parametrize(
    ("fields", "stated"),
    [
        ({"License-Expression": "MIT OR ISC", "License": "see LICENSE"}, Licence("MIT OR ISC", True)),
        ({"License": "BSD"}, Licence("BSD", False)),
        ({"License": "UNKNOWN", "Classifier": "License :: OSI Approved :: MIT License"}, Licence("MIT License", False)),
        ({"License": "Copyright\nall of it", "Classifier": "License :: OSI Approved"}, Licence("not stated", False)),
    ],
)
def test_the_licence_is_an_expression_or_a_name_and_never_a_text(fields, stated):
    message = Message()
    for key, value in fields.items():
        message[key] = value
    assert supply_chain.licence(message) == stated


def test_pins_and_requirements_that_the_lock_lacks_are_named():
    pins = "# torch's build may be local\nsome.pack-age==1.2\nOther==4\nelsewhere==1\n"
    assert supply_chain.unpinned(PACKAGES, pins) == ["requirements.lock: other is 3, and constraints.txt has 4"]
    project = {
        "dependencies": ["other>=1"],
        "optional-dependencies": {
            "minilm": ["Some.Pack_Age"],
            "test": ["biencoder-ablate[a,b]"],
            "a": ["x<2"],
            "b": [],
        },
    }
    missing = ["requirements.lock: x is missing, which pyproject.toml asks for"]
    assert supply_chain.missing(PACKAGES, project) == missing


def test_a_package_is_in_the_bill_with_its_purl_licence_and_hashes():
    licences = {"some-pack-age": Licence("MIT", True), "other": Licence("BSD", False)}
    written = json.loads(supply_chain.bill(PACKAGES, licences, "9.9"))
    assert (written["bomFormat"], written["specVersion"]) == ("CycloneDX", "1.6")
    assert written["metadata"]["component"]["version"] == "9.9"
    first, second = written["components"]
    assert first["purl"] == "pkg:pypi/some-pack-age@1.2%2Bcpu"
    assert first["hashes"] == [{"alg": "SHA-256", "content": f"{HASH}{last}"} for last in (1, 2)]
    assert [item["licenses"] for item in (first, second)] == [[{"expression": "MIT"}], [{"license": {"name": "BSD"}}]]
    assert supply_chain.licences_of(written) == licences


def test_a_licence_that_changed_is_noticed():
    """As where a release is installed whose metadata says another thing than the page."""
    said = supply_chain.wrong(lambda package: Licence("changed", False) if package.name == "torch" else None)
    assert [line.partition(" ")[0] for line in said] == ["docs/licences.md", "sbom.json"]
