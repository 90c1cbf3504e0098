"""Where a launch goes, from the words of its command line: a scheduler, and what its site says besides."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestration.grids.places import Places
from orchestration.launching.options import FOLLOWED_CLUSTERS
from orchestration.on_slurm import cluster as sites
from orchestration.on_slurm.cluster import PREFIX


@dataclass(frozen=True, slots=True)
class Where:
    """A cluster by its scheduler; what the command line says has precedence over the site."""

    cluster: str
    """One of `FOLLOWED_CLUSTERS`, or a site of Slurm, by name or file."""
    address: str = ""
    uri: str = ""
    """Of the MLflow store; empty: as without a site."""
    places: Places | None = None
    lines: tuple[str, ...] = ()
    """What of the site a plan shows besides data and weights."""


def find(cluster: str, settings: Sequence[str], address: str = "", uri: str = "") -> Where:
    """Read the site of a launch, if it has one.

    Raises:
        ValueError: It cannot be read, or there are settings of a site without one.
    """
    if cluster in FOLLOWED_CLUSTERS:
        if settings:
            raise ValueError(
                f"{settings[0]} must be given with --cluster slurm or a site's file, whose fields start with {PREFIX}; "
                f"got it with --cluster {cluster}"
            )
        return Where(cluster, address, uri)
    site = sites.load(cluster, settings)
    source = f"the site {cluster}"
    return Where(
        cluster if site.scheduler == "slurm" else site.scheduler,
        address or site.address,
        uri or site.tracking_uri,
        sites.places_of(site, source),
        tuple(_lines(site.tracking_uri, uri, source)),
    )


def _lines(of_site: str, given: str, source: str) -> list[str]:
    if not of_site:
        return []
    if given and given != of_site:
        return [f"MLflow: as --tracking-uri says; {source} has {of_site}"]
    return [f"MLflow: {of_site}, from {source}"]
