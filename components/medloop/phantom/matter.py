"""What X-rays meet: linear attenuation coefficients, per mm, at 70 keV: a chest beam of 125 kVp behind the patient.

Mass attenuation coefficients (cm2/g at 60 and 80 keV) and densities (g/cm3): Hubbell and Seltzer, NIST Standard
Reference Database 126, tables 3 and 4 (ICRU-44 tissues), https://www.nist.gov/pml/x-ray-mass-attenuation-coefficients.
"""

import math

ENERGY_KEV = 70.0
PHOTONS_PER_MM2_UGY = 30_174  # fluence per air kerma of the standard beam RQA5, IEC 62220-1


def _per_mm(at_60_kev: float, at_80_kev: float, density: float) -> float:
    """Return the linear coefficient at ENERGY_KEV, interpolated on logarithms as NIST advises."""
    share = math.log(ENERGY_KEV / 60) / math.log(80 / 60)
    return 0.1 * density * at_60_kev ** (1 - share) * at_80_kev**share


AIR = _per_mm(0.1875, 0.1662, 0.001205)
SOFT = _per_mm(0.2048, 0.1823, 1.06)
BLOOD = _per_mm(0.2057, 0.1827, 1.06)
FAT = _per_mm(0.1974, 0.1800, 0.95)
LUNG = _per_mm(0.2053, 0.1826, 0.26)  # inflated
CORTICAL = _per_mm(0.3148, 0.2229, 1.92)
GLAND = (SOFT + FAT) / 2  # of the breast
TRABECULAR = 0.13 * CORTICAL + 0.87 * (SOFT + FAT) / 2  # bone with marrow: about 13% of its volume is mineral
