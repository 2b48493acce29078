"""Groups of the 40 attributes, as systems that treat attributes by part of the face use them. Data, nothing
else.

Every table is a partition of `attributes.CELEBA40`: table name -> group -> its attributes.
"""

from __future__ import annotations

_HAIR = (
    "Bald",
    "Bangs",
    "Black_Hair",
    "Blond_Hair",
    "Brown_Hair",
    "Gray_Hair",
    "Receding_Hairline",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Hat",
)
_EYES = ("Arched_Eyebrows", "Bags_Under_Eyes", "Bushy_Eyebrows", "Eyeglasses", "Narrow_Eyes")
_NOSE = ("Big_Nose", "Pointy_Nose")
_CHEEKS = ("High_Cheekbones", "Rosy_Cheeks")
_MOUTH = ("Big_Lips", "Mouth_Slightly_Open", "Smiling", "Wearing_Lipstick")

GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    # MGMTN (Gao et al. 2026) names the eight groups. Ours: their members, which it does not publish.
    "mgmtn8": {
        "Mouth": _MOUTH,
        "Ear": ("Wearing_Earrings",),
        "Lower Face": (
            "5_o_Clock_Shadow", "Double_Chin", "Goatee", "Mustache", "No_Beard", "Sideburns",
            "Wearing_Necklace", "Wearing_Necktie",
        ),
        "Cheeks": _CHEEKS,
        "Nose": _NOSE,
        "Eyes": _EYES,
        "Hair": _HAIR,
        "Object": ("Attractive", "Blurry", "Chubby", "Heavy_Makeup", "Male", "Oval_Face", "Pale_Skin",
        "Young"),
    },
    # MCNN-AUX (Hand & Chellappa 2017), after a re-implementation on 35 attributes.
    # Ours: the places of hat, earrings, necklace, necktie and double chin, which that one leaves out.
    "mcnn9": {
        "gender": ("Male",),
        "nose": _NOSE,
        "mouth": _MOUTH,
        "eyes": _EYES,
        "face": ("Attractive", "Blurry", "Oval_Face", "Pale_Skin", "Young", "Heavy_Makeup"),
        "around head": (*_HAIR, "Wearing_Earrings", "Wearing_Necklace", "Wearing_Necktie"),
        "facial hair": ("5_o_Clock_Shadow", "Mustache", "No_Beard", "Sideburns", "Goatee"),
        "cheeks": _CHEEKS,
        "fat": ("Chubby", "Double_Chin"),
    },
    # SwinFace (Qin et al. 2023), from its code; its age and expression subnets carry one attribute each.
    "swinface11": {
        "gender": ("Male",),
        "age": ("Young",),
        "expression": ("Smiling",),
        "whole face": ("Attractive", "Blurry", "Chubby", "Heavy_Makeup", "Oval_Face", "Pale_Skin"),
        "hair": _HAIR,
        "eyes": _EYES,
        "nose": _NOSE,
        "cheeks and sides": (*_CHEEKS, "Wearing_Earrings", "Sideburns"),
        "mouth": ("5_o_Clock_Shadow", "Big_Lips", "Mouth_Slightly_Open", "Mustache", "Wearing_Lipstick",
        "No_Beard"),
        "chin": ("Double_Chin", "Goatee"),
        "neck": ("Wearing_Necklace", "Wearing_Necktie"),
    },
}  # fmt: skip
