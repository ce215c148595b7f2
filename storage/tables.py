"""Tables: Parquet on disk, NumPy columns in memory, DuckDB to ask. The only home of both libraries.

Vectors are fixed-size binary columns: six times faster to write and read than Parquet lists, and
read back without a copy. DuckDB keeps no file of its own, so there is nothing to lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.artifacts import whole_file

Columns = dict[str, Any]
"""Column name -> array [N] (numbers, strings, bools), array [N, D] (vectors) or list of lists of strings."""

_VECTOR = b"vector"


def write_table(path: Path, columns: Mapping[str, Any], *, compression: str = "zstd") -> None:
    """Write columns; a 2-D array [N, D] becomes fixed-size binary, uncompressed, its dtype and width in the metadata."""
    arrays, fields = [], []
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and values.ndim == 2:
            array, metadata = _vectors(values)
        else:
            array, metadata = pa.array(list(values) if not isinstance(values, np.ndarray) else values), None
        arrays.append(array)
        fields.append(pa.field(name, array.type, metadata=metadata))
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
    # Parquet knows a list column by the path of its elements; by its name it would be left uncompressed.
    paths = {
        field.name: f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name for field in fields
    }
    plain = {paths[field.name]: compression if field.metadata is None else "none" for field in fields}
    dictionary = [
        paths[field.name] for field in fields if pa.types.is_string(field.type) or pa.types.is_list(field.type)
    ]
    pq.write_table(table, path, compression=plain, use_dictionary=dictionary, row_group_size=8192)


def write_whole_table(path: Path, columns: Mapping[str, Any]) -> None:
    """`write_table`, but the file is there only when it is whole: for artifacts that are made in several tries."""
    with whole_file(path) as partial:
        write_table(partial, columns)


def _vectors(values: np.ndarray) -> tuple[pa.Array, dict[bytes, bytes]]:
    values = np.ascontiguousarray(values)
    count, width = values.shape
    row = width * values.itemsize
    array = pa.FixedSizeBinaryArray.from_buffers(pa.binary(row), count, [None, pa.py_buffer(values.tobytes())])
    return array, {_VECTOR: f"{values.dtype.str}:{width}".encode()}


def read_table(path: Path | Sequence[Path], columns: Sequence[str] | None = None) -> Columns:
    """Read columns (all, or those named) of one file or of several of the same kind, in their order."""
    paths = [path] if isinstance(path, Path) else list(path)
    tables = [_read(each, columns) for each in paths]
    return _to_columns(pa.concat_tables(tables))


def _read(path: Path, columns: Sequence[str] | None) -> pa.Table:
    # pq.read_table would import pandas, which costs a second and is used for nothing here.
    with pq.ParquetFile(path) as file:
        return file.read() if columns is None else file.read(columns=list(columns)).select(list(columns))


def _to_columns(table: pa.Table) -> Columns:
    read: Columns = {}
    for field, column in zip(table.schema, table.columns, strict=True):
        if field.metadata and _VECTOR in field.metadata:
            dtype, width = field.metadata[_VECTOR].decode().split(":")
            chunks = [np.frombuffer(chunk.buffers()[1], dtype, len(chunk) * int(width), chunk.offset * chunk.type.byte_width)
                      for chunk in column.chunks if len(chunk)]  # fmt: skip
            flat = chunks[0] if len(chunks) == 1 else np.concatenate(chunks) if chunks else np.empty(0, dtype)
            read[field.name] = flat.reshape(-1, int(width))
        elif pa.types.is_list(field.type):
            read[field.name] = column.to_pylist()
        elif pa.types.is_string(field.type):
            read[field.name] = np.array(column.to_pylist(), dtype=object)
        else:
            read[field.name] = column.to_numpy()
    return read


def query(sql: str, tables: Mapping[str, Path | Sequence[Path]], parameters: Iterable[Any] = ()) -> Columns:
    """Ask DuckDB: `tables` names views over Parquet files; values go in as `?`, never into the text."""
    with duckdb.connect() as connection:
        for name, path in tables.items():
            files = [str(path)] if isinstance(path, Path) else [str(each) for each in path]
            connection.from_parquet(files).create_view(name)
        return _to_columns(connection.sql(sql, params=list(parameters)).to_arrow_table())


def named_query(name: str, tables: Mapping[str, Path | Sequence[Path]], parameters: Iterable[Any] = ()) -> Columns:
    """Ask the question in `storage/queries/<name>.sql`."""
    sql = (Path(__file__).resolve().parent / "queries" / f"{name}.sql").read_text()
    return query(sql, tables, parameters)


def row_count(path: Path) -> int:
    return pq.read_metadata(path).num_rows
