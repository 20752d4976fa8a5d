"""What the sections of a profile must agree on."""

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
PROFILES = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))


def laid_over_the_defaults(profile: str | None) -> dict[str, Any]:
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    overlay = yaml.safe_load((ROOT / "profiles" / f"{profile}.yaml").read_text()) if profile else {}
    for section, values in overlay.items():
        document[section] = document[section] | values if isinstance(values, dict) else values
    return document


@pytest.mark.parametrize("profile", [None, *PROFILES])
def test_late_qat_trains_on_the_grid_that_ships(profile: str | None) -> None:
    document = laid_over_the_defaults(profile)
    train, quant = document["train"], document["quant"]
    if train["qat_share"]:
        for key in ("bits", "clip_sigma", "embed_bits", "embed_clip_sigma"):
            assert train[f"qat_{key}"] == quant[key], key
