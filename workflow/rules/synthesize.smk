# Raw recordings → pieces → clips with labels, shard by shard → checked manifests.
# The audio lies beside, under data/audio/<corpus>/; the manifests hold its sha256.
def prepared_from(wildcards):
    if systems.build_corpus(corpus_of(wildcards)).uses_soundbank:
        return f"data/manifests/{wildcards.corpus}/soundbank.tsv"
    return f"data/raw/{wildcards.corpus}/files.tsv"


def shards_of(wildcards):
    return expand(
        "data/manifests/{corpus}/shards/{shard}.{part}.tsv",
        corpus=wildcards.corpus,
        shard=range(systems.build_corpus(corpus_of(wildcards)).shards),
        part=["clips", "strong", "weak"],
    )


rule soundbank:
    input:
        files="data/raw/{corpus}/files.tsv",
        tables=lambda wildcards: plan.corpus_tables(corpus_of(wildcards)),
    output:
        "data/manifests/{corpus}/soundbank.tsv",
    log:
        "logs/soundbank/{corpus}.log",
    benchmark:
        "logs/benchmarks/soundbank/{corpus}.tsv"
    params:
        corpus=lambda wildcards: canonical(corpus_of(wildcards)),
        raw="data/raw/{corpus}",
        audio="data/audio/{corpus}",
        code=corpus_code("soundbank"),
    shell:
        "python -m sedflow.cli soundbank {params.corpus:q} {params.raw} {params.audio} --out {output} > {log} 2>&1"


rule prepare:
    input:
        source=prepared_from,
        # beside a soundbank, too: DESED's real clips are of no soundbank
        files="data/raw/{corpus}/files.tsv",
        tables=lambda wildcards: plan.corpus_tables(corpus_of(wildcards)),
    output:
        expand("data/manifests/{{corpus}}/shards/{{shard}}.{part}.tsv", part=["clips", "strong", "weak"]),
    log:
        "logs/prepare/{corpus}/{shard}.log",
    benchmark:
        "logs/benchmarks/prepare/{corpus}/{shard}.tsv"
    params:
        corpus=lambda wildcards: canonical(corpus_of(wildcards)),
        # a folder where there is no soundbank: its list is named files.tsv
        source=lambda wildcards: prepared_from(wildcards).removesuffix("/files.tsv"),
        audio="data/audio/{corpus}",
        shard="{shard}",
        out="data/manifests/{corpus}/shards",
        code=corpus_code("prepare"),
    shell:
        "python -m sedflow.cli prepare {params.corpus:q} {params.source} {params.audio}"
        " --shard {params.shard} --out {params.out} > {log} 2>&1"


# What it warns of is meant for whoever looks on, so it goes to the terminal, too.
rule collect:
    input:
        shards=shards_of,
        tables=lambda wildcards: plan.corpus_tables(corpus_of(wildcards)),
    output:
        expand("data/manifests/{{corpus}}/{table}", table=["clips.tsv", "leaks.json", "inventory.tsv"]),
    log:
        "logs/collect/{corpus}.log",
    benchmark:
        "logs/benchmarks/collect/{corpus}.tsv"
    params:
        corpus=lambda wildcards: canonical(corpus_of(wildcards)),
        manifests="data/manifests/{corpus}",
        code=corpus_code("collect"),
    shell:
        "python -m sedflow.cli collect {params.corpus:q} {params.manifests} 2>&1 | tee {log}"


# What a system reads of a corpus, as one small file: DVC follows it, since other systems may share the corpus' folder.
rule inventory:
    input:
        "data/manifests/{corpus}/inventory.tsv",
    output:
        "data/inventory/{system}/corpora/{corpus}.tsv",
    log:
        "logs/inventory/{system}/{corpus}.log",
    params:
        names="{system} {corpus}",
        code=digest.code("inventory"),
    shell:
        "python -m sedflow.cli inventory {input} --out {output} > {log} 2>&1"
