"""A digital phantom: simulated chest radiographs with and without nodules, as real DICOM datasets.

`anatomy` makes a patient in 3D, `radiograph` takes the picture, `sites` is the device that shows it, `header` the DICOM
dataset around it, `cohort` the whole: `cohort.dicom(seed, index, study, options)` is one file's bytes.
"""
