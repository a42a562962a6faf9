# Raw files and official weights: from the mirror (SEDFLOW_MIRROR) or else from the net, verified.
import re

from sedflow.download import pretrained


localrules:
    download,
    weights,


def listing_of(wildcards):
    try:
        return plan.corpus_listing_digest(corpus_of(wildcards))
    except ValueError as error:
        stop(error)


rule download:
    input:
        tables=lambda wildcards: plan.corpus_tables(corpus_of(wildcards)),
        recordings=lambda wildcards: plan.corpus_recordings(corpus_of(wildcards)),
    output:
        "data/raw/{corpus}/files.tsv",
    log:
        "logs/download/{corpus}.log",
    benchmark:
        "logs/benchmarks/download/{corpus}.tsv"
    params:
        corpus=lambda wildcards: canonical(corpus_of(wildcards)),
        folder="data/raw/{corpus}",
        listing=listing_of,
        code=corpus_code("download"),
    shell:
        "python -m sedflow.cli download {params.corpus:q} --out {params.folder} 2>&1 | tee {log}"


# The bytes follow from their sum or address, not from our code, so that no edit of it trains again what reads them. A
# file that is right is kept.
rule weights:
    output:
        update("models/pretrained/{name}.pt"),
    log:
        "logs/weights/{name}.log",
    benchmark:
        "logs/benchmarks/weights/{name}.tsv"
    wildcard_constraints:
        name="|".join(map(re.escape, pretrained())),
    params:
        name="{name}",
        content=lambda wildcards: digest.weights_content(wildcards.name),
    shell:
        "python -m sedflow.cli weights {params.name} --out {output} > {log} 2>&1"
