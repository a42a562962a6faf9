# One rule per page of workflow/systems, named like it, and the report it ends in; and one that compares its variants.
RUN_FILES = ["log.csv", "settings.json", "postprocess.json", "metrics.json", "roc.json", "best.safetensors"]


def runs_of(system):
    return plan.run_folders(system, PAGES.variant(system), system_of(system), SHARED.seeds)


def finished(system):
    """The report, the models, which a clone with the report's numbers in git would not miss, and what DVC follows."""
    return [
        f"models/{system}/report/index.html",
        *expand("{run}/{file}.safetensors", run=runs_of(system), file=["best", "detector"]),
        *expand(f"data/inventory/{system}/corpora/{{corpus}}.tsv", corpus=plan.corpora(system_of(system))),
        f"data/inventory/{system}/features/{PAGES.variant(system)}.tsv",
    ]


def reported(wildcards):
    files = expand("{run}/{file}", run=runs_of(wildcards.system), file=RUN_FILES)
    for run in runs_of(wildcards.system):
        networks = plan.networks(system_of(wildcards.system).stages[Path(run).parent.name])
        files += expand(f"{run}/scores/{{split}}_{{network}}.parquet", split=["validation", "test"], network=networks)
    return files


rule report:
    input:
        runs=reported,
    output:
        report("models/{system}/report/index.html", caption="../report/page.rst", category="Report"),
        report("models/{system}/report/metrics.json", caption="../report/metrics.rst", category="Evaluation"),
        report("models/{system}/report/roc.tsv", caption="../report/roc.rst", category="Evaluation"),
        report("models/{system}/report/curves.tsv", caption="../report/curves.rst", category="Evaluation"),
    log:
        "logs/report/{system}.log",
    benchmark:
        "logs/benchmarks/report/{system}.tsv"
    params:
        page=lambda wildcards: canonical(system_of(wildcards.system)),
        runs=lambda wildcards: runs_of(wildcards.system),
        manifests=lambda wildcards: repeated(
            "--manifests", [f"data/manifests/{corpus}" for corpus in plan.corpora(system_of(wildcards.system))]
        ),
        out="models/{system}/report",
        code=digest.code("report"),
    shell:
        "python -m sedflow.cli report {params.page:q} {params.runs} {params.manifests}"
        " --benchmarks logs/benchmarks --out {params.out} > {log} 2>&1"


def compared(wildcards):
    """The groups of a page's comparison, its variants with their pages, and their runs."""
    comparison = system_of(wildcards.system).comparison
    if comparison is None:
        stop(f"workflow/systems/{wildcards.system}.yaml: no `comparison:` that says which variants to compare")
    variants = dict.fromkeys(variant for group in comparison.groups.values() for variant in group)
    pages = {variant: system_of(wildcards.system, variant) for variant in variants}
    runs = [
        run
        for variant, page in pages.items()
        for run in plan.run_folders(wildcards.system, variant, page, comparison.seeds)
    ]
    return comparison.groups, pages, runs


def compared_settings(wildcards):
    groups, pages, _ = compared(wildcards)
    published = {variant: page.published for variant, page in pages.items()}
    system = system_of(wildcards.system)
    told = {"title": system.title, "headlines": system.headlines, "groups": groups, "published": published}
    return canonical(told)


rule comparison:
    input:
        lambda wildcards: expand("{run}/metrics.json", run=compared(wildcards)[2]),
    output:
        report("models/{system}/comparison/table.tsv", caption="../report/comparison.rst", category="Comparison"),
        report("models/{system}/comparison/table.md", caption="../report/comparison.rst", category="Comparison"),
        report("models/{system}/comparison/plot.svg", caption="../report/comparison.rst", category="Comparison"),
        report("models/{system}/comparison/plot.png", caption="../report/comparison.rst", category="Comparison"),
    log:
        "logs/comparison/{system}.log",
    benchmark:
        "logs/benchmarks/comparison/{system}.tsv"
    params:
        settings=compared_settings,
        runs=lambda wildcards: compared(wildcards)[2],
        out="models/{system}/comparison",
        code=digest.code("comparison"),
    shell:
        "python -m sedflow.cli comparison {params.settings:q} {params.runs} --out {params.out} > {log} 2>&1"


for page in PAGES.names:

    rule:
        name:
            page
        input:
            lambda wildcards, page=page: finished(page),

    rule:
        name:
            f"{page}_comparison"
        input:
            f"models/{page}/comparison/table.md",
