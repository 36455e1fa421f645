"""Documents of Parquet and array_record files and tensorflow-datasets, without TensorFlow."""

from collections.abc import Iterator, Mapping
import functools
import os
from typing import Any

import numpy as np

from t5lite import errors
from t5lite.data import sources

RECORDS = 1024  # read at once


def parquet(name: str, paths: list[str]) -> sources.Source:
  """Returns the source of Parquet files, whose column `text` holds the documents."""
  return sources.Source(name, _row_groups([(path, _text_file(path)) for path in paths]), _parquet)


def parquet_rows(name: str, paths: list[str]) -> sources.Source:
  """Returns the source of Parquet files, with all their columns."""
  files = [(path, _parquet_file(path)) for path in paths]
  return sources.Source(name, _row_groups(files), _parquet_rows)


def _row_groups(files: list[tuple[str, Any]]) -> list[sources.Span]:
  spans = []
  for path, file in files:
    metadata = file.metadata
    for group in range(metadata.num_row_groups):
      size = metadata.row_group(group).total_byte_size
      spans.append(sources.Span(path, group, group + 1, size))
  return spans


def _parquet_file(path: str) -> Any:
  import pyarrow
  from pyarrow import parquet

  try:
    return parquet.ParquetFile(path, page_checksum_verification=True)
  except (pyarrow.ArrowException, OSError) as error:
    raise errors.DataError('not a Parquet file', f'{path} ({error})', 'restore it') from error


def _text_file(path: str) -> Any:
  file = _parquet_file(path)
  types = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
  if 'text' not in types:
    where = f'{path} with the columns {", ".join(types)}'
    raise errors.DataError("no column 'text'", where, 'rename the column that holds the text')
  if not str(types['text']).removeprefix('large_').startswith(('string', 'binary')):
    remedy = 'write it as strings'
    raise errors.DataError("column 'text' is not text", f'{path}: {types["text"]}', remedy)
  return file


def _parquet(span: sources.Span) -> Iterator[str]:
  for row, record in enumerate(_parquet_rows(span, ['text'])):
    yield _decode(record['text'] or '', f'{span.path} row group {span.start} row {row}')


def _parquet_rows(span: sources.Span, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
  import pyarrow

  where = f'{span.path} row group {span.start}'
  try:
    file, groups = _parquet_file(span.path), range(span.start, span.stop)
    for batch in file.iter_batches(RECORDS, row_groups=groups, columns=columns):
      yield from batch.to_pylist()
  except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
    raise errors.DataError('damaged Parquet file', f'{where} ({error})', 'restore it') from error


def array_record(name: str, paths: list[str]) -> sources.Source:
  """Returns the source of array_record files, each record a document in UTF-8."""
  spans = [span for path in paths for span in _cut(path, 0, _num_records(path))]
  return sources.Source(name, spans, _array_record)


def _num_records(path: str) -> int:
  from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

  try:
    if os.path.getsize(path) == 0:  # the reader finds no fault there
      raise RuntimeError('the file is empty')
    reader = array_record_module.ArrayRecordReader(path)
    num_records = reader.num_records()
    reader.close()  # some faults show only here
    return num_records
  except RuntimeError as error:
    raise errors.DataError('not an array_record file', f'{path} ({error})', 'restore it') from error


def _cut(path: str, first: int, num_records: int) -> list[sources.Span]:
  """Returns a file's records, counted from `first`, as spans of about PART bytes."""
  size = os.path.getsize(path)
  step = max(1, num_records * sources.PART // max(size, 1))
  stop = first + num_records
  return [
    sources.Span(
      path, start, min(start + step, stop), min(step, stop - start) * size // num_records
    )
    for start in range(first, stop, step)
  ]


def _array_record(span: sources.Span) -> Iterator[str]:
  from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

  where = span.path
  try:
    reader = array_record_module.ArrayRecordReader(span.path)
    for first in range(span.start, span.stop, RECORDS):
      where = f'{span.path} records from {first}'
      for i, record in enumerate(reader.read(first, min(first + RECORDS, span.stop))):
        yield _decode(record, f'{span.path} record {first + i}')
    reader.close()
  except RuntimeError as error:
    raise errors.DataError('damaged record', f'{where} ({error})', 'restore the file') from error


def tfds(name: str, where: str) -> sources.Source:
  """Returns the source of a prepared tensorflow-dataset: `NAME` or `NAME@SPLIT` (default train).

  NAME is one that `tfds.builder` knows, with config and version (`c4/en:3.0.1`), or the directory
  that holds its dataset_info.json.
  """
  builder, split, spans = _tfds_split(name, where)
  read = functools.partial(
    _tfds, where.partition('@')[0], split, _text_feature(name, builder.info.features)
  )
  return sources.Source(name, spans, read)


def tfds_rows(name: str, where: str) -> sources.Source:
  """Returns the source of all features of a prepared tensorflow-dataset; names as of `tfds`."""
  _, split, spans = _tfds_split(name, where)
  read = functools.partial(_tfds_records, where.partition('@')[0], split)
  return sources.Source(name, spans, read)


def _tfds_split(name: str, where: str) -> tuple[Any, str, list[sources.Span]]:
  """Returns the dataset's builder, the name of the split, and its records as spans."""
  dataset, _, split = where.partition('@')
  builder = _builder(dataset)
  splits = builder.info.splits
  if not splits:
    remedy = f"prepare it once: tfds.builder('{dataset}', file_format='array_record')"
    remedy += '.download_and_prepare()'
    raise errors.DataError('tensorflow-dataset not prepared', builder.data_path, remedy)
  split = split or 'train'
  if split not in splits:
    remedy = f'use one of {", ".join(f"tfds:{dataset}@{split}" for split in splits)}'
    raise errors.DataError('no such split', name, remedy)
  if builder.info.file_format.value != 'array_record':
    where = f'{builder.data_path} is {builder.info.file_format.value}'
    remedy = "prepare it with file_format='array_record'"
    raise errors.DataError('tensorflow-dataset not readable without TensorFlow', where, remedy)
  spans, first = [], 0
  for path, length in zip(splits[split].filepaths, splits[split].shard_lengths, strict=True):
    spans += _cut(str(path), first, length)
    first += length
  return builder, split, spans


@functools.cache
def _builder(dataset: str) -> Any:
  import tensorflow_datasets

  try:
    if os.path.isdir(dataset):
      return tensorflow_datasets.builder_from_directory(dataset)
    return tensorflow_datasets.builder(dataset, try_gcs=False)
  except OSError as error:
    remedy = 'name the directory that holds dataset_info.json'
    raise errors.DataError('not a tensorflow-dataset', dataset, remedy) from error
  except ValueError as error:  # an unknown name, version or config
    problem = str(error).partition('\n')[0]
    remedy = 'mend the name, prepare it as array_record, or export TFDS_DATA_DIR=DIRECTORY with it'
    raise errors.DataError(
      'no such tensorflow-dataset', f'{dataset} ({problem})', remedy
    ) from error


def _text_feature(name: str, features: Mapping[str, Any]) -> str:
  """Returns the name of the feature `text`, or of the only one that is a string."""
  strings = [key for key, kind in features.items() if kind.np_dtype in (object, bytes, str)]
  found = ['text'] if 'text' in strings else strings
  if len(found) != 1:
    where = f'{name} with the features {", ".join(features)}'
    raise errors.DataError("no feature 'text'", where, 'choose a dataset with one text feature')
  return found[0]


def _tfds(dataset: str, split: str, feature: str, span: sources.Span) -> Iterator[str]:
  for record in _tfds_records(dataset, split, span, (feature,)):
    yield record[feature]


def _tfds_records(
  dataset: str, split: str, span: sources.Span, features: tuple[str, ...] = ()
) -> Iterator[dict[str, Any]]:
  """Yields the examples of a span, with these features or with all."""
  source, where = _builder(dataset).as_data_source(split), span.path
  try:
    for first in range(span.start, span.stop, RECORDS):
      where = f'{span.path} examples from {first}'
      records = source.__getitems__(range(first, min(first + RECORDS, span.stop)))
      for i, record in enumerate(records):
        place = f'{span.path} example {first + i}'
        yield {key: _plain(record[key], place) for key in features or record}
  except RuntimeError as error:
    raise errors.DataError('damaged record', f'{where} ({error})', 'restore the file') from error


def _plain(value: Any, where: str) -> Any:
  """Returns a feature as plain Python: text, numbers, lists and dicts of them."""
  if isinstance(value, (bytes, str)):
    return _decode(value, where)
  if isinstance(value, Mapping):
    return {key: _plain(part, where) for key, part in value.items()}
  if isinstance(value, np.ndarray):
    value = value.tolist()  # of bytes: a list of bytes
  if isinstance(value, (list, tuple)):
    return [_plain(part, where) for part in value]
  return value.item() if isinstance(value, np.generic) else value


def _decode(record: bytes | str, where: str) -> str:
  try:
    return record if isinstance(record, str) else record.decode('utf-8')
  except UnicodeDecodeError as error:
    raise errors.DataError('not UTF-8', where, 'write the text as UTF-8') from error
