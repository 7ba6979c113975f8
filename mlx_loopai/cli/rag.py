"""`mlx-loopai rag`: builds an index of files, and searches it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.output import emit, json_option, progress, quiet_option
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

if TYPE_CHECKING:
    from mlx_loopai.retrieval.index import Hit

_PATH = click.Path(path_type=Path)
_SHOWN_CHARS = 200
rag_top_option = click.option(
    "--rag-top", type=click.IntRange(1, 20), default=3, show_default=True, help="How many passages."
)
chroma_url_option = click.option(
    "--chroma-url",
    envvar="MLX_LOOPAI_CHROMA_URL",
    metavar="URL",
    help="Chroma server that keeps the index's vectors. [default: $MLX_LOOPAI_CHROMA_URL]",
)


@click.group("rag", short_help="Make an index of files to generate from, and search it.")
def command() -> None:
    """Make an index of files, and search it; `generate --rag DIR` shows a prompt's best passages to the model."""


@command.command("build")
@click.argument("files", nargs=-1, required=True, type=_PATH)
@click.option("--index", type=_PATH, required=True, help="Folder of the index; it is created, or updated.")
@click.option(
    "--chunk-chars",
    type=click.IntRange(50, 8000),
    default=400,
    show_default=True,
    help="Longest passage, in characters; passages end with a sentence.",
)
@click.option(
    "--embedder",
    metavar="MODEL",
    help="Find by meaning too: an embedding model's folder (`mlx-loopai convert` makes one) or hub id.",
)
@click.option("--chroma", is_flag=True, help="Keep the vectors in Chroma, in a folder of the index.")
@chroma_url_option
@json_option
@quiet_option
def build_command(
    files: tuple[Path, ...],
    index: Path,
    chunk_chars: int,
    embedder: str | None,
    chroma: bool,
    chroma_url: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make --index the index of exactly FILES: texts (.txt, .md) and rows (.jsonl, .json, .csv, .parquet).

    Called again, it reads only files that changed. Passages with equal words are kept once.
    """
    from mlx_loopai.retrieval.index import Vectorising, build_index

    if (chroma or chroma_url) and embedder is None:
        raise InputError(tr("--chroma keeps vectors, which --embedder MODEL makes; name the model"))
    with progress(None, tr("embedding"), quiet or embedder is None, "passages") as embedded:
        vectors = None
        if embedder is not None:
            from mlx_loopai.models.embedder import open_embedder

            in_chroma = chroma or chroma_url is not None
            vectors = Vectorising(open_embedder(embedder), in_chroma, chroma_url, embedded.advance)
        with progress(len(set(files)), tr("reading"), quiet or embedder is not None, "files") as shown:
            built = build_index(files, index, chunk_chars, vectors, shown.advance, lambda reason: _warn(reason, quiet))
    manifest = built.manifest
    document = {
        "index": index,
        "files": built.files,
        "files_reused": built.reused,
        "passages": manifest.passages,
        "duplicates": manifest.duplicates,
        "embedder": manifest.embedder.model if manifest.embedder else None,
        "vectors": manifest.vectors,
        "bytes": sum(file.n_bytes for file in manifest.files.values()),
    }
    text = tr(
        "{index}: {passages} passages of {files} files ({reused} unchanged, {duplicates} duplicates left out)",
        index=index,
        passages=manifest.passages,
        files=built.files,
        reused=built.reused,
        duplicates=manifest.duplicates,
    )
    emit(document, as_json, text)


@command.command("search")
@click.argument("query")
@click.option("--index", type=_PATH, required=True, help="Folder that `rag build` made.")
@click.option("--top", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many passages.")
@chroma_url_option
@json_option
@quiet_option
def search_command(query: str, index: Path, top: int, chroma_url: str | None, as_json: bool, quiet: bool) -> None:
    """Show the passages of --index that answer QUERY best."""
    from mlx_loopai.retrieval.index import open_index

    check_query(query)
    with open_index(index, chroma_url) as opened:
        hits = opened.search(query, top)
        name = opened.retriever.name
    document = {"query": query, "index": index, "retriever": name, "results": [_row(hit) for hit in hits]}
    emit(document, as_json, "\n\n".join(map(_shown, hits)) or "nothing found")


def check_query(query: str) -> None:
    """Raises: InputError for a query that is empty or not UTF-8."""
    try:
        query.encode()
    except UnicodeEncodeError:
        raise InputError(tr("the query is not UTF-8; type it in a UTF-8 terminal")) from None
    if not query.strip():
        raise InputError(tr("the query is empty; write what to look for"))


def _row(hit: Hit) -> dict[str, Any]:
    chunk = hit.chunk
    return {
        "file": chunk.file,
        "line": chunk.line,
        "score": hit.score,
        "chunk": chunk.id,
        "ranks": hit.ranks,
        "text": chunk.text,
    }


def _shown(hit: Hit) -> str:
    text = " ".join(hit.chunk.text.split())
    cut = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
    return f"{hit.chunk.file}:{hit.chunk.line}  {hit.score:.3f}\n{cut}"


def _warn(reason: str, quiet: bool) -> None:
    if not quiet:
        click.echo(tr("the index that is there is not used: {reason}", reason=reason), err=True)
