"""Benchmark on real people: models scored on labelled files of public corpora, one class for each file.

`corpora` lists the files, `predict_files` predicts them as `mien predict` does, `scores` scores the predictions, and
`pairs` joins faces and voices of different corpora. `mien bench real` prints the result.
"""
