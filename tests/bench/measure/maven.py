"""Programs on the JVM come by Maven."""
import functools
import pathlib
import shutil
import subprocess
import sys

from . import load

POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>tidelog.bench</groupId><artifactId>{name}</artifactId><version>1</version><dependencies>
{dependencies}</dependencies></project>
"""
DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>\n"


@functools.cache
def maven(name, dependencies):
    """The folder with the jars of the dependencies (group, artifact, version), fetched when it is not there."""
    folder = load.BUILT / name
    lib = folder / f"lib-{dependencies[0][2]}"
    if lib.is_dir():
        return lib
    for program in ("java", "mvn"):
        if not shutil.which(program):
            sys.exit(f"{name} needs {program}: install Java 17 and Maven")
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(DEPENDENCY.format(*dependency) for dependency in dependencies)
    (folder / "pom.xml").write_text(POM.format(name=name, dependencies=lines))
    part = pathlib.Path(f"{lib}.part")
    shutil.rmtree(part, ignore_errors=True)
    subprocess.run(["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={part}"], cwd=folder,
                   check=True)
    part.rename(lib)
    return lib
