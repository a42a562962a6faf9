# One rule per page of workflow/systems, named like it, and the report it ends in.
RUN_FILES = ["log.csv", "settings.json", "postprocess.json", "metrics.json", "roc.json", "best.safetensors"]


def runs_of(system):
    variant = variant_of(system)
    return plan.run_folders(system, variant, PAGES.system(system, variant), SHARED.seeds)


def finished(system):
    """The report, and what a clone that already has the report's numbers from git would not notice to be missing."""
    models = expand("{run}/{file}.safetensors", run=runs_of(system), file=["best", "detector"])
    return [f"models/{system}/report/index.html", *models]


def reported(wildcards):
    runs = runs_of(wildcards.system)
    page = PAGES.system(wildcards.system, variant_of(wildcards.system))
    scores = [
        f"{run}/scores/{split}_{network}.parquet"
        for run in runs
        for split in ("validation", "test")
        for network in plan.networks(page.stages[Path(run).parent.name])
    ]
    return [*expand("{run}/{file}", run=runs, file=RUN_FILES), *scores]


rule report:
    input:
        runs=reported,
        page=[str(file) for file in sorted(Path("sedflow").glob("report_*")) if file.suffix != ".py"],
    output:
        "models/{system}/report/index.html",
        "models/{system}/report/metrics.json",
        "models/{system}/report/roc.tsv",
        "models/{system}/report/curves.tsv",
    log:
        "logs/report/{system}.log",
    benchmark:
        "logs/benchmarks/report/{system}.tsv"
    params:
        page=lambda wildcards: canonical(PAGES.system(wildcards.system, variant_of(wildcards.system))),
        runs=lambda wildcards: runs_of(wildcards.system),
        manifests=lambda wildcards: "data/manifests/"
        + next(iter(plan.corpora(PAGES.system(wildcards.system, variant_of(wildcards.system))))),
        out="models/{system}/report",
        code=digest.code("report"),
    shell:
        "python -m sedflow.cli report {params.page:q} {params.runs} --manifests {params.manifests}"
        " --benchmarks logs/benchmarks --out {params.out} > {log} 2>&1"


for page in PAGES.names:

    rule:
        name:
            page
        input:
            lambda wildcards, page=page: finished(page),
