# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""The prompt ensembles: plain strings, no algorithm.

A prompt is a template around a state around the class name: ``a photo of a {}.`` around ``{} with scratch`` around
``bottle`` reads ``a photo of a bottle with scratch.``. Every state is combined with every template.
"""

# CLIP-AD (https://arxiv.org/abs/2311.00453): 9 normal and 10 anomalous states times 22 templates.
NORMAL_STATES = (
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
    "{} without scratch",
    "{} without crack",
    "{} without contamination",
)

ANOMALOUS_STATES = (
    "damaged {}",
    "imperfect {}",
    "blemished {}",
    "broken {}",
    "{} with flaw",
    "{} with defect",
    "{} with damage",
    "{} with scratch",
    "{} with crack",
    "{} with contamination",
)

TEMPLATES = (
    "a cropped photo of a {}.",
    "a cropped photo of the {}.",
    "a close-up photo of a {}.",
    "a close-up photo of the {}.",
    "a bright photo of a {}.",
    "a bright photo of the {}.",
    "a dark photo of a {}.",
    "a dark photo of the {}.",
    "a jpeg corrupted photo of a {}.",
    "a jpeg corrupted photo of the {}.",
    "a blurry photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of a large {}.",
    "a photo of the large {}.",
    "a photo of a small {}.",
    "a photo of the small {}.",
    "a photo of a {} for visual inspection.",
    "a photo of the {} for visual inspection.",
    "a photo of a {} for anomaly detection.",
    "a photo of the {} for anomaly detection.",
)

# The paper's medical prompts are in a supplement that is not public. These are this package's own wording: do not
# expect the paper's medical figures from them.
MEDICAL_NORMAL_STATES = (
    "healthy {}",
    "normal {}",
    "unremarkable {}",
    "{} without lesion",
    "{} without tumor",
    "{} without bleeding",
    "{} without polyp",
    "{} without disease",
    "{} without abnormality",
)

MEDICAL_ANOMALOUS_STATES = (
    "diseased {}",
    "abnormal {}",
    "unhealthy {}",
    "pathological {}",
    "{} with lesion",
    "{} with tumor",
    "{} with bleeding",
    "{} with polyp",
    "{} with disease",
    "{} with abnormality",
)

MEDICAL_TEMPLATES = (
    "a medical image of a {}.",
    "a medical image of the {}.",
    "a cropped medical image of a {}.",
    "a cropped medical image of the {}.",
    "a close-up medical image of a {}.",
    "a close-up medical image of the {}.",
    "a bright medical image of a {}.",
    "a bright medical image of the {}.",
    "a dark medical image of a {}.",
    "a dark medical image of the {}.",
    "a blurry medical image of a {}.",
    "a blurry medical image of the {}.",
    "a low-contrast medical image of a {}.",
    "a low-contrast medical image of the {}.",
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of a {} for medical examination.",
    "a photo of the {} for medical examination.",
    "a photo of a {} for diagnosis.",
    "a photo of the {} for diagnosis.",
)

PROMPT_SETS = {
    "industrial": {
        "normal_states": NORMAL_STATES,
        "anomalous_states": ANOMALOUS_STATES,
        "templates": TEMPLATES,
    },
    "medical": {
        "normal_states": MEDICAL_NORMAL_STATES,
        "anomalous_states": MEDICAL_ANOMALOUS_STATES,
        "templates": MEDICAL_TEMPLATES,
    },
}

# Only names whose words do not follow from the general rule (underscores are spaces, a final variant number is
# dropped). Looked up without regard to case.
CLASS_NAME_ALIASES = {
    # VisA
    "chewinggum": "chewing gum",
    "pcb": "printed circuit board",
    "pcb1": "printed circuit board",
    "pcb2": "printed circuit board",
    "pcb3": "printed circuit board",
    "pcb4": "printed circuit board",
    # MVTec LOCO AD, MVTec AD 2
    "pushpins": "push pins",
    "wallplugs": "wall plugs",
    # Real-IAD
    "audiojack": "audio jack",
    "terminalblock": "terminal block",
    "vcpill": "pill",
    "woodstick": "wood stick",
    # Medical sets of CLIP-AD; the paper's own names.
    "HeadCT": "head ct",
    "BrainMRI": "brain ct",
    "ISIC": "skin",
    "CVC-ClinicDB": "colon",
    # BMAD
    "Histopathology": "tissue",
    "Retina_OCT2017": "retina",
    "Retina_RESC": "retina",
}
