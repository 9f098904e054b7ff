"""The paths of the two sites, and the behaviors of a distribution that result from them."""

from pathlib import Path
from typing import Any

from launchdarkly import setting
from template import Resolved

# Parameters of edge.yaml and the fields of redirect.toml that set them; the fields are compiled into the function.
PATHS = {"CurrentPath": "current_path", "BetaPath": "beta_path"}


def paths(root: Path) -> dict[str, str]:
    return {name: setting(root, field) for name, field in PATHS.items()}


def behaviors(resolved: Resolved) -> list[dict[str, Any]]:
    """The behaviors that the stack's own distribution would have, the default one first."""
    resolved.physical["FunctionVersion"] = "FunctionVersion"
    resolved.attributes["CurrentSite"] = {"FunctionARN": "CurrentSite"}
    config = resolved.template["Resources"]["Distribution"]["Properties"]["DistributionConfig"]
    return resolved.value([config["DefaultCacheBehavior"], *config["CacheBehaviors"]])
