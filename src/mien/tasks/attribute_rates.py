"""How common the 40 attributes are, and which of a face's are worth naming first.

"No beard" is likely for every woman and every child; it says little. An attribute says the more, the farther
its probability is above the share of faces that have it.
"""

from __future__ import annotations

from collections.abc import Mapping

# Share of "yes" among the labels of the 8,970 training pictures of CelebA's sample.
RATES: dict[str, float] = {
    "5_o_Clock_Shadow": 0.109, "Arched_Eyebrows": 0.266, "Attractive": 0.512, "Bags_Under_Eyes": 0.207,
    "Bald": 0.022, "Bangs": 0.151, "Big_Lips": 0.237, "Big_Nose": 0.240, "Black_Hair": 0.241,
    "Blond_Hair": 0.146, "Blurry": 0.051, "Brown_Hair": 0.204, "Bushy_Eyebrows": 0.145, "Chubby": 0.058,
    "Double_Chin": 0.046, "Eyeglasses": 0.069, "Goatee": 0.064, "Gray_Hair": 0.045, "Heavy_Makeup":
    0.385, "High_Cheekbones": 0.454, "Male": 0.420, "Mouth_Slightly_Open": 0.481, "Mustache": 0.038,
    "Narrow_Eyes": 0.116, "No_Beard": 0.834, "Oval_Face": 0.278, "Pale_Skin": 0.043, "Pointy_Nose":
    0.273, "Receding_Hairline": 0.076, "Rosy_Cheeks": 0.063, "Sideburns": 0.056, "Smiling": 0.482,
    "Straight_Hair": 0.213, "Wavy_Hair": 0.317, "Wearing_Earrings": 0.188, "Wearing_Hat": 0.049,
    "Wearing_Lipstick": 0.469, "Wearing_Necklace": 0.123, "Wearing_Necktie": 0.073, "Young": 0.777,
}  # fmt: skip


def notable(probabilities: Mapping[str, float], maximum: int | None = None) -> list[str]:
    """The likely attributes, the most informative first: by probability minus the usual rate.

    Args:
        probabilities: name -> 0..1. Names without a known rate count as rare.
        maximum: the most names to return; None for all.
    """
    likely = [name for name, p in probabilities.items() if p >= 0.5]
    return sorted(likely, key=lambda name: RATES.get(name, 0.0) - probabilities[name])[:maximum]
