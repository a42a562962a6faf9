# Iterations: finished detectors score training clips, one job per member and source; the mean of their logits is what
# the next round learns from. The members are trained with the same seed as who learns from them.
rule score_source:
    input:
        clips="data/manifests/{corpus}/clips.tsv",
        checkpoint=f"{plan.RUN}/best.safetensors",
    output:
        f"{plan.LOGITS}.npy",
        f"{plan.LOGITS}.json",
    log:
        "logs/score_source/{system}/{variant}/{stage}/seed{seed}/{network}/{corpus}/{source}.log",
    benchmark:
        "logs/benchmarks/score_source/{system}/{variant}/{stage}/seed{seed}/{network}/{corpus}/{source}.tsv"
    resources:
        gpu=GPU,
    params:
        source="{source}",
        network="{network}",
        code=detector_code("score_source"),
    shell:
        "python -m sedflow.cli score-source {input.clips} --checkpoint {input.checkpoint} --source {params.source}"
        " --network {params.network} --out {output[0]} > {log} 2>&1"


rule pseudo_labels:
    input:
        lambda wildcards: plan.member_files(system_of(wildcards.system), **wildcards),
    output:
        f"{plan.PSEUDO_LABELS}.npy",
        f"{plan.PSEUDO_LABELS}.json",
    log:
        "logs/pseudo_labels/{system}/{ensemble}/seed{seed}/{corpus}/{source}.log",
    benchmark:
        "logs/benchmarks/pseudo_labels/{system}/{ensemble}/seed{seed}/{corpus}/{source}.tsv"
    params:
        code=digest.code("pseudo_labels"),
    shell:
        "python -m sedflow.cli pseudo-labels {input} --out {output[0]} > {log} 2>&1"
