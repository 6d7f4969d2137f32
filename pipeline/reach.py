"""Where a catalogue may lead: what the hrefs of its items and the links of its pages may name.

An API somewhere else is written by others. It may name the public network and buckets, and not this machine's files,
this machine's services or its network. A catalogue on disk and an API on this machine may name both, and so may an API
whose source says `trusted = true`. Nobody may name link-local addresses, where clouds keep credentials, nor GDAL's own
prefixes (/vsi…, vrt://…), which open other files.

Addresses are judged as they are written; a name that the network resolves to an address inside is not seen here.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import unicodedata
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from harmonize.problem import Problem
from pipeline.sandbox import SCHEME, size_of

if TYPE_CHECKING:
    from pipeline.source import Source

WEB = ("http", "https")
BUCKETS = ("s3", "gs", "az")
"""Schemes that GDAL reads from, as rasterio names them."""
Place = Literal["public", "inside", "here", "never"]
RANK: dict[Place, int] = {"public": 0, "inside": 1, "here": 2, "never": 3}
NEVER = ("169.254.0.0/16", "fe80::/10", "fd00:ec2::/32", "100.100.100.200/32")
"""Link-local addresses, and where AWS (IPv6) and Alibaba keep the metadata of a machine."""
NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""Its last 32 bits are the IPv4 address that a gateway asks (RFC 6052); so are those of ::/96, which is out of use."""
LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")
"""A network's own gateways (RFC 8215): the address may be in its last 32 bits too."""
NEVER_NAMES = ("metadata", "metadata.google.internal", "metadata.goog", "instance-data")
LEAVE = "leave the item out, and tell the catalogue's operator"
LONGEST = 4096
"""Characters of an address; signed ones have some 500."""


def place_of(host: str) -> Place:
    """Where a host is, by its name or number as it is written, in any way that libraries understand."""
    name = unicodedata.normalize("NFKC", host).strip("[]").rstrip(".").partition("%")[0].lower()
    if name in NEVER_NAMES:
        return "never"
    if name == "localhost" or name.endswith(".localhost"):
        return "here"
    number = _number(name)
    if number is None:
        return "inside" if "." not in name or name.endswith((".local", ".internal", ".lan", ".home.arpa")) else "public"
    if _is_never(number):
        return "never"
    if number.is_loopback or number.is_unspecified:
        return "here"
    return "public" if number.is_global and not number.is_multicast else "inside"


def _number(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address written as a number: 127.0.0.1, 127.1, 0x7f.1, 2130706433, ::1, ::ffff:127.0.0.1; None for a name."""
    try:
        found = ipaddress.ip_address(name)
    except ValueError:
        if not re.fullmatch(r"[0-9a-fx.]+", name) or not name[:1].isdigit():
            return None
        try:
            return ipaddress.IPv4Address(socket.inet_aton(name))
        except OSError:
            return None
    return _embedded(found) if isinstance(found, ipaddress.IPv6Address) else found


def _embedded(number: ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that an IPv6 address leads to; itself where it leads to none."""
    last = ipaddress.IPv4Address(int(number) & 0xFFFFFFFF)
    if number in NAT64 or (int(number) >> 32 == 0 and not number.is_loopback and not number.is_unspecified):
        return last
    if number in LOCAL_NAT64 and _is_never(last):
        return last
    return number.ipv4_mapped or number.sixtofour or number


def _is_never(number: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    nets = map(ipaddress.ip_network, NEVER)
    return any(net.version == number.version and number in net for net in nets)


def reach_of(api: str | None, trusted: bool = False) -> int:
    """How near a catalogue's addresses may be, as a RANK: as near as the catalogue itself."""
    if api is None or size_of(api) or trusted:
        return RANK["here"]
    return min(RANK[place_of(_host(api) or "")], RANK["here"])


def _host(address: str) -> str | None:
    """The host of an address; None where there is none that all libraries would read alike."""
    if len(address) > LONGEST or re.search(r"[\\\s]", address) or not address.isprintable():
        return None
    try:
        parts = urlsplit(address)
        _ = parts.port  # ValueError for one that is no number
        return parts.hostname
    except ValueError:
        return None


def check_href(href: str, source: Source, where: str) -> None:
    """Raises Problem for an item's href that its catalogue may not name, or that cannot be an address."""
    who = f"an item of {source.api}" if source.api else "an item"
    most = reach_of(source.api, source.trusted)
    scheme, mark, _ = href.partition("://")
    scheme = scheme.lower()
    if len(href) > LONGEST or not href.isprintable():
        raise _refused(f"{who} names an address of {len(href)} characters that is none", where)
    if not mark:
        if href.startswith("/vsi"):
            raise _refused(f"{who} names a file by a prefix of GDAL: {href[:80]}", where)
        if most < RANK["here"]:
            raise _refused(f"{who} names a file of this machine: {href[:80]}", where, source)
    elif scheme in WEB:
        _check_host(href, most, who, where, source)
    elif href.startswith(SCHEME):
        if most < RANK["here"]:
            raise _refused(f"{who} names a file of the sample world: {href[:80]}", where, source)
    elif scheme not in BUCKETS:
        raise _refused(f"{who} names something that is not read: {href.partition('?')[0][:80]}", where)


def check_page(address: str, most: int, where: str, who: str = "the STAC API", fix: str = LEAVE) -> None:
    """Raises Problem for an address that `who` sends a request to and may not: a next page, or a redirect."""
    _check_host(address, most, who, where, None, fix)


def is_never(address: str) -> bool:
    """Whether nobody may name an address, since machines keep credentials there; a prefix of GDAL may stand before."""
    web = re.search(r"https?://.*", address, re.IGNORECASE)
    return web is not None and place_of(_host(web.group()) or "") == "never"


def _check_host(address: str, most: int, who: str, where: str, source: Source | None, fix: str = LEAVE) -> None:
    plain = re.sub(r"://[^/?#]*@", "://", address).partition("?")[0][:80]
    host = _host(address)
    if not host:
        raise _refused(f"{who} names no address: {plain}", where, fix=fix)
    place = place_of(host)
    if place == "never":
        raise _refused(f"{who} names an address where machines keep their credentials: {plain}", where, fix=fix)
    if RANK[place] > most:
        what = "this machine" if place == "here" else "a network that is not public"
        raise _refused(f"{who} names an address of {what}: {plain}", where, source, fix)


def _refused(what: str, where: str, source: Source | None = None, fix: str = LEAVE) -> Problem:
    if source is not None:
        fix += "; if the catalogue is yours, write trusted = true into its source"
    return Problem(what, where=where, fix=fix)
