# What a network says about validation and test: scores before any threshold, one job per network.
rule score:
    input:
        manifests=manifests,
        checkpoint=f"{plan.RUN}/best.safetensors",
    output:
        f"{plan.RUN}/scores/validation_{{network}}.parquet",
        f"{plan.RUN}/scores/test_{{network}}.parquet",
    log:
        "logs/score/{system}/{variant}/{stage}/seed{seed}_{network}.log",
    benchmark:
        "logs/benchmarks/score/{system}/{variant}/{stage}/seed{seed}_{network}.tsv"
    resources:
        gpu=GPU,
    params:
        manifests=manifest_options,
        network="{network}",
        out=f"{plan.RUN}/scores",
        code=detector_code("score"),
    shell:
        "python -m sedflow.cli score --checkpoint {input.checkpoint} {params.manifests} --network {params.network}"
        " --out {params.out} > {log} 2>&1"
