"""Corpora: one file each, the index of clips, and recordings from the feature store.

To add a corpus, write a file with the functions of `mien.datasets.index.DatasetReader` and name it in
`mien.datasets.index.CORPORA`.
"""
