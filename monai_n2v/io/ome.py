# SPDX-License-Identifier: Apache-2.0
"""The OME description of a TIFF file, and of a set of files that hold one image together."""

from __future__ import annotations

import uuid
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from monai_n2v.io.volume import Refusal


def pixels_of(root: ElementTree.Element) -> ElementTree.Element:
    """The element that describes the voxels.

    Raises:
        ValueError: where there is none.
    """
    found = next((element for element in root.iter() if element.tag.rpartition("}")[2] == "Pixels"), None)
    if found is None:
        raise ValueError("OME metadata without Pixels")
    return found


def renew(ome: str, stored: np.dtype, n_planes: int) -> str:
    """The source's OME description for another file of the same planes: type, identity and place of the planes.

    Args:
        ome: of the source.
        stored: type of the voxels.
        n_planes: how many follow each other in the file.
    """
    root = ElementTree.fromstring(ome)
    namespace = root.tag[1:].partition("}")[0] if root.tag.startswith("{") else ""
    ElementTree.register_namespace("", namespace)
    pixels = pixels_of(root)
    name = {"float32": "float", "float64": "double"}.get(stored.name, stored.name)
    if pixels.get("Type") != name:
        pixels.attrib.pop("SignificantBits", None)
    pixels.set("Type", name)
    pixels.set("BigEndian", "false")
    if "UUID" in root.attrib:
        root.set("UUID", f"urn:uuid:{uuid.uuid4()}")
    tag = f"{{{namespace}}}TiffData" if namespace else "TiffData"
    planes = pixels.findall(tag)
    place = list(pixels).index(planes[0]) if planes else len(pixels)
    for element in planes:
        pixels.remove(element)
    pixels.insert(place, ElementTree.Element(tag, {"IFD": "0", "PlaneCount": str(n_planes)}))
    text = ElementTree.tostring(root, encoding="unicode")
    # TIFF's descriptions are ASCII; XML can say the rest by number.
    return '<?xml version="1.0" encoding="UTF-8"?>' + text.encode("ascii", "xmlcharrefreplace").decode("ascii")


def _members(path: Path, ome: str) -> list[str]:
    """The files that hold the planes of an OME set, in their order; empty where this one holds all.

    Raises:
        ValueError: where the description stands in another file, or names files elsewhere.
    """
    root = ElementTree.fromstring(ome)
    names: dict[str, str] = {}
    for element in root.iter():
        kind = element.tag.rpartition("}")[2]
        if kind == "BinaryOnly":
            got = element.get("MetadataFile", "another file")
            raise Refusal(
                f"path must hold its own OME description, got {path} whose is in {got}. Export it as one file."
            )
        if kind == "UUID" and element.text and element.get("FileName"):
            # A file that was renamed since is known by its identity.
            own = element.text.strip() == root.get("UUID")
            names[element.text.strip()] = path.name if own else str(element.get("FileName"))
    if any(Path(name.replace("\\", "/")).name != name for name in names.values()):
        raise Refusal(
            f"path must be of an OME set in one folder, got names with folders in {path}. Export it as one file."
        )
    return list(dict.fromkeys(names.values())) if set(names.values()) != {path.name} else []


def check_set(path: Path, ome: str) -> None:
    """Refuse a part of an OME set where parts are missing, and all but its first file.

    Args:
        path: of the file.
        ome: its description.

    Raises:
        ValueError: for such a file.
    """
    members = _members(path, ome)
    missing = [name for name in members if not (path.parent / name).is_file()]
    if missing:
        raise Refusal(
            f"path must be of a complete OME set, got {path} without {', '.join(missing[:3])}. "
            "Put the files of the set into one folder, or export it as one file."
        )
    if members and path.name != members[0]:
        raise Refusal(
            f"path must be the first file of its OME set, got {path}. Pass {members[0]}, which stands for all."
        )


def stands_for(path: Path) -> Path:
    """The file of an OME set that is read for all its files; any other file stands for itself.

    Args:
        path: of a file.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            members = _members(path, file.ome_metadata or "") if file.is_ome else []
    except Exception:  # noqa: BLE001 - reading it will say so
        return path
    complete = members and all((path.parent / name).is_file() for name in members)
    return path.parent / members[0] if complete else path
