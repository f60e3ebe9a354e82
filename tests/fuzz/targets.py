"""All targets. Together they are every parser of the server that takes bytes from outside."""

from collections.abc import Mapping

from fuzz import bodies, connections, decision_ids, frames, key_sets, paths, tokens
from fuzz.target import Target

TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        decision_ids.TARGET,
        tokens.TARGET,
        key_sets.TARGET,
        bodies.TARGET,
        *paths.TARGETS,
        frames.TARGET,
        connections.TARGET,
    )
}
