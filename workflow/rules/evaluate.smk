# Post-processing is tuned on validation; test is only measured.
def scores_of(split):
    return lambda wildcards: expand(
        f"{plan.RUN}/scores/{split}_{{network}}.parquet", **wildcards, network=plan.networks(stage_of(wildcards))
    )


rule tune:
    input:
        manifests=manifests,
        scores=scores_of("validation"),
    output:
        f"{plan.RUN}/postprocess.json",
    log:
        "logs/tune/{system}/{variant}/{stage}/seed{seed}.log",
    benchmark:
        "logs/benchmarks/tune/{system}/{variant}/{stage}/seed{seed}.tsv"
    params:
        settings=lambda wildcards: canonical(
            {"postprocess": page_of(wildcards).postprocess, "objective": SHARED.tuning.objective}
        ),
        manifests=manifest_options,
        code=digest.code("tune"),
    shell:
        "python -m sedflow.cli tune {input.scores} --settings {params.settings:q} {params.manifests}"
        " --out {output} > {log} 2>&1"


rule evaluate:
    input:
        manifests=manifests,
        scores=scores_of("test"),
        postprocess=f"{plan.RUN}/postprocess.json",
    output:
        metrics=f"{plan.RUN}/metrics.json",
        roc=f"{plan.RUN}/roc.json",
    log:
        "logs/evaluate/{system}/{variant}/{stage}/seed{seed}.log",
    benchmark:
        "logs/benchmarks/evaluate/{system}/{variant}/{stage}/seed{seed}.tsv"
    params:
        manifests=manifest_options,
        code=digest.code("evaluate_run"),
    shell:
        "python -m sedflow.cli evaluate-run {input.scores} --postprocess {input.postprocess} {params.manifests}"
        " --roc {output.roc} --out {output.metrics} > {log} 2>&1"


rule export:
    input:
        checkpoint=f"{plan.RUN}/best.safetensors",
        postprocess=f"{plan.RUN}/postprocess.json",
    output:
        f"{plan.RUN}/detector.safetensors",
    log:
        "logs/export/{system}/{variant}/{stage}/seed{seed}.log",
    benchmark:
        "logs/benchmarks/export/{system}/{variant}/{stage}/seed{seed}.tsv"
    params:
        code=detector_code("export"),
    shell:
        "python -m sedflow.cli export --checkpoint {input.checkpoint} --postprocess {input.postprocess}"
        " --out {output} > {log} 2>&1"
