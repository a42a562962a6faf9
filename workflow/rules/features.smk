# The cache: outputs of encoders that a stage keeps frozen, computed once, shard by shard. Safe to delete;
# the README says how to add a seed then. (`ancient` in train would not help: a deleted file triggers all the same, and
# while features run Snakemake no longer looks whether the settings and code of what reads ancient files have changed.)
rule features:
    input:
        clips="data/manifests/{corpus}/clips.tsv",
        weights=lambda wildcards: [
            digest.weights_file(name) for name in [PAGES.cache(wildcards.key)["weights"]] if name
        ],
    output:
        "data/features/{key}/{corpus}/{source}-{shard}.npy",
        "data/features/{key}/{corpus}/{source}-{shard}.json",
    log:
        "logs/features/{key}/{corpus}/{source}-{shard}.log",
    benchmark:
        "logs/benchmarks/features/{key}/{corpus}/{source}-{shard}.tsv"
    resources:
        gpu=GPU,
    params:
        settings=lambda wildcards: canonical(PAGES.cache(wildcards.key)),
        weights=lambda wildcards, input: repeated("--weights", input.weights),
        source="{source}",
        shard="{shard}",
        code=lambda wildcards: digest.code("features", [("encoders", PAGES.cache(wildcards.key)["encoder"]["name"])]),
    shell:
        "python -m sedflow.cli features {params.settings:q} {input.clips} --source {params.source}"
        " --shard {params.shard} {params.weights} --out {output[0]} > {log} 2>&1"


# What a system's stages read of the cache; DVC follows it, since all systems share data/features.
rule feature_inventory:
    input:
        lambda wildcards: [
            file.replace(".npy", suffix)
            for stage in page_of(wildcards).stages.values()
            for file in plan.cache_files(page_of(wildcards), stage)
            for suffix in (".npy", ".json")
        ],
    output:
        "data/inventory/{system}/features/{variant}.tsv",
    log:
        "logs/feature_inventory/{system}/{variant}.log",
    params:
        names="{system} {variant}",
        # what dvc.yaml follows of the stages, so that both redo this list when the other does
        stages=lambda wildcards: canonical(
            {name: [stage.freeze, stage.sources] for name, stage in page_of(wildcards).stages.items() if stage.freeze}
        ),
        code=digest.code("inventory"),
    shell:
        "python -m sedflow.cli inventory {input} --out {output} > {log} 2>&1"
