"""Where the two sites are, and which behaviors of a distribution follow from that."""

from pathlib import Path
from typing import Any

from launchdarkly import setting
from template import Resolved

# The parameters of edge.yaml that have the value of a field of redirect.toml, as it is compiled into the function.
PATHS = {"CurrentPath": "current_path", "BetaPath": "beta_path"}


def paths(root: Path) -> dict[str, str]:
    return {name: setting(root, field) for name, field in PATHS.items()}


def behaviors(resolved: Resolved) -> list[dict[str, Any]]:
    """Those of the stack's own distribution, were there one, the default one first."""
    resolved.physical["FunctionVersion"] = "FunctionVersion"
    resolved.attributes["CurrentSite"] = {"FunctionARN": "CurrentSite"}
    config = resolved.template["Resources"]["Distribution"]["Properties"]["DistributionConfig"]
    return resolved.value([config["DefaultCacheBehavior"], *config["CacheBehaviors"]])
