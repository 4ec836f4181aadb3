"""How commands tell whether their norms and distances are exact, and what the cache lacks for that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spectra.cli.tables import plural

if TYPE_CHECKING:
    from spectra.analysis.weight_changes import Unknown


def unknown_as_dict(unknown: Unknown) -> dict[str, Any]:
    """What is not known, as JSON data."""
    counts = {"unknown_sigmas": len(unknown.clipping), "unknown_vectors": len(unknown.cross)}
    return {"exact": not unknown, **counts, "directions_needed": unknown.directions}


def exactness_line(found: dict[str, Any], what: str = "norms") -> tuple[str, str]:
    """A heading and what the norms are, from what `unknown_as_dict` gave."""
    if found["exact"]:
        return "exact", f"{what} of Delta W, with what the ReLU clips"
    said = []
    if found["unknown_sigmas"]:
        said.append(
            f"delta stands for the change of singular values: those of {plural(found['unknown_sigmas'], 'weight')} are "
            "not in the cache (spectra decompose BASE), so what the ReLU clips is not known; it shortens delta"
        )
    if found["unknown_vectors"]:
        said.append(
            "the inner products of delta with outer terms and words are left out for "
            f"{plural(found['unknown_vectors'], 'weight')}, whose singular vectors are not in the cache "
            f"(spectra decompose BASE --directions {found['directions_needed']})"
        )
    return "plain", f"{what} of Delta W, but: {'; '.join(said)}"
