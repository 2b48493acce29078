"""Other packages' calls, answered by mien: a script moves with one import line. docs/migrate.md says what
differs.

    from mien.compat import deepface as DeepFace
    from mien.compat.insightface import FaceAnalysis

Own code after the public documentation of these packages; nothing of theirs is imported or needed.
"""
