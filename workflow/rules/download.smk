# Raw files and official weights: from the mirror (SEDFLOW_MIRROR) or else from the net, verified.
localrules:
    download,
    weights,


def listing_of(wildcards):
    try:
        return plan.corpus_listing(corpus_of(wildcards))
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


rule weights:
    input:
        "data/pretrained.yaml",
    output:
        "models/pretrained/{name}.pt",
    log:
        "logs/weights/{name}.log",
    benchmark:
        "logs/benchmarks/weights/{name}.tsv"
    params:
        name="{name}",
        code=digest.code("weights"),
    shell:
        "python -m sedflow.cli weights {params.name} --out {output} > {log} 2>&1"
