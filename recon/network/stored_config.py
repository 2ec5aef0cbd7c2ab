"""A network's configuration and rule as text, so that our own weight files describe themselves."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Literal

from recon.network.config import (
    AggregatorConfig,
    CameraHeadConfig,
    Dense,
    DescriptorsV1,
    DescriptorsV2,
    DptConfig,
    NetworkConfig,
    Rule,
    TrackerConfig,
    TrackHeadConfig,
    VitConfig,
)

Json = dict[str, Any]
Arithmetic = Literal["dense", "v1", "v2"]
RULES: dict[Arithmetic, type[Dense] | type[DescriptorsV1] | type[DescriptorsV2]] = {
    "dense": Dense,
    "v1": DescriptorsV1,
    "v2": DescriptorsV2,
}
VERSION = 1
PUBLISHED_DEPTH = 24


def arithmetic_of(rule: Rule) -> Arithmetic:
    """The name of a rule's kind."""
    return next(name for name, kind in RULES.items() if isinstance(rule, kind))


def published_rule(arithmetic: Arithmetic, depth: int = PUBLISHED_DEPTH) -> Rule:
    """The rule with the published numbers; v2's range of global blocks is scaled for other depths."""
    if arithmetic != "v2":
        return RULES[arithmetic]()
    published = DescriptorsV2()
    first, last = (depth * layer // PUBLISHED_DEPTH for layer in (published.first, published.last))
    return DescriptorsV2(published.factor, first, last)


def to_text(config: NetworkConfig, rule: Rule) -> str:
    """JSON of both."""
    stated_rule = {"arithmetic": arithmetic_of(rule)} | asdict(rule)
    return json.dumps({"version": VERSION, "config": asdict(config), "rule": stated_rule})


def from_text(text: str) -> tuple[NetworkConfig, Rule]:
    """The inverse of ``to_text``. Raises ValueError, KeyError or TypeError for other text."""
    stated = json.loads(text)
    if stated["version"] != VERSION:
        raise ValueError(f"its description has version {stated['version']}, this program reads {VERSION}")
    config, rule = stated["config"], dict(stated["rule"])
    return _network(config), RULES[rule.pop("arithmetic")](**rule)


def _network(stated: Json) -> NetworkConfig:
    aggregator, track = _tuples(stated["aggregator"]), stated["track"]
    vit = aggregator.pop("vit")
    return NetworkConfig(
        aggregator=AggregatorConfig(**aggregator, vit=VitConfig(**vit) if vit else None),
        camera=CameraHeadConfig(**_tuples(stated["camera"])) if stated["camera"] else None,
        depth=DptConfig(**_tuples(stated["depth"])) if stated["depth"] else None,
        points=DptConfig(**_tuples(stated["points"])) if stated["points"] else None,
        track=TrackHeadConfig(DptConfig(**_tuples(track["extractor"])), TrackerConfig(**track["tracker"]))
        if track
        else None,
    )


def _tuples(stated: Json) -> Json:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in stated.items()}
