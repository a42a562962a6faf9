# One stage, one seed. What an interrupted run needs to go on lies undeclared under work/, by stage and digest.
def start_of(wildcards):
    start = stage_of(wildcards).start_from
    return plan.RUN.format(**{**wildcards, "stage": start}) + "/best.safetensors" if start else []


def pseudo_of(wildcards):
    return plan.pseudo_files(wildcards.system, page_of(wildcards), stage_of(wildcards), wildcards.seed)


def train_code(wildcards):
    return digest.code("train", plan.train_plugins(page_of(wildcards), stage_of(wildcards)))


# Recordings of augmentations are the user's own: no rule makes them. A dry run shows its plan without them and says what
# is missing; a run stops before its first job, as its last stage may be weeks away. DVC plans one stage at a time.
def recordings_missing(wildcards, stages):
    try:
        for stage in stages:
            stage_plugins.check_recordings(stage.augment, page_of(wildcards).sample_rate)
    except ValueError as error:
        return f"workflow/systems/{wildcards.system}.yaml: {error}"


def warned_of_recordings(wildcards):
    if workflow.is_main_process and workflow.dryrun:
        missing = recordings_missing(wildcards, [stage_of(wildcards)])
        if missing and missing not in WARNINGS:
            print(f"warning: {missing}", file=sys.stderr)
            WARNINGS.add(missing)
    return []


WARNINGS = set()


onstart:
    for job in workflow.dag.needrun_jobs() if workflow.is_main_process and not MENDS else ():
        if job.rule.name == "train":
            stages = (
                page_of(job.wildcards).stages.values() if "DVC_STAGE" in os.environ else [stage_of(job.wildcards)]
            )
            if missing := recordings_missing(job.wildcards, stages):
                stop(missing)


rule train:
    input:
        recordings=warned_of_recordings,
        manifests=manifests,
        tables=lambda wildcards: [
            table for spec in plan.corpora(page_of(wildcards)).values() for table in plan.corpus_tables(spec)
        ],
        features=lambda wildcards: plan.cache_files(page_of(wildcards), stage_of(wildcards)),
        weights=lambda wildcards: list(plan.weights(page_of(wildcards), stage_of(wildcards)).values()),
        pseudo=pseudo_of,
        listeners=lambda wildcards: plan.listeners(stage_of(wildcards)),
        start=start_of,
    output:
        f"{plan.RUN}/best.safetensors",
        f"{plan.RUN}/log.csv",
        f"{plan.RUN}/settings.json",
    log:
        "logs/train/{system}/{variant}/{stage}/seed{seed}.log",
    benchmark:
        "logs/benchmarks/train/{system}/{variant}/{stage}/seed{seed}.tsv"
    threads: lambda wildcards: max(SHARED.threads, plan.processors(stage_of(wildcards)))
    resources:
        gpu=lambda wildcards: GPU * stage_of(wildcards).processes,
    params:
        settings=lambda wildcards: canonical(plan.train_settings(wildcards.system, page_of(wildcards), wildcards.stage)),
        seed="{seed}",
        manifests=manifest_options,
        features=lambda wildcards: repeated(
            "--features", map("=".join, plan.caches(page_of(wildcards), stage_of(wildcards)).items())
        ),
        weights=lambda wildcards: repeated(
            "--weights", map("=".join, plan.weights(page_of(wildcards), stage_of(wildcards)).items())
        ),
        pseudo=lambda wildcards: repeated("--pseudo-labels", pseudo_of(wildcards)),
        start=lambda wildcards: repeated("--start-from", filter(None, [start_of(wildcards)])),
        work=lambda wildcards: f"work/{wildcards.stage}/{train_code(wildcards)}",
        out=plan.RUN,
        listing=lambda wildcards: plan.augment_listing_digest(stage_of(wildcards)),
        code=train_code,
    shell:
        "python -m sedflow.cli train {params.settings:q} --seed {params.seed} {params.manifests} {params.features}"
        " {params.weights} {params.pseudo} {params.start} --work {params.work} --out {params.out} 2>&1 | tee {log}"
