"""The functions of DeepFace as it documents them, answered by mien.

    from mien.compat import deepface as DeepFace
    DeepFace.verify("a.jpg", "b.jpg")["verified"]

Arrays are BGR, as there. Pictures come as paths, arrays, open files, bytes, torch tensors or base64
(data:image/...); a URL is refused. Names of models, detectors and normalizations are accepted and not used:
there is one network. docs/migrate.md lists what differs.
"""

from mien import __version__
from mien.compat.deepface.absent import build_index, detectFace, register, search, stream
from mien.compat.deepface.analysis import analyze, build_model, extract_faces
from mien.compat.deepface.faces import PictureError
from mien.compat.deepface.recognition import find, represent, verify


class DeepFace:
    """For `from mien.compat.deepface import DeepFace`."""

    __version__ = __version__
    analyze, verify, represent = staticmethod(analyze), staticmethod(verify), staticmethod(represent)
    find, extract_faces, build_model = (
        staticmethod(find),
        staticmethod(extract_faces),
        staticmethod(build_model),
    )
    stream, register, search = staticmethod(stream), staticmethod(register), staticmethod(search)
    build_index, detectFace = staticmethod(build_index), staticmethod(detectFace)  # noqa: N815 (theirs)


__all__ = [
    "DeepFace",
    "PictureError",
    "__version__",
    "analyze",
    "build_index",
    "build_model",
    "detectFace",
    "extract_faces",
    "find",
    "register",
    "represent",
    "search",
    "stream",
    "verify",
]
