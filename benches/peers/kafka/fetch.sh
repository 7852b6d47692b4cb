#!/usr/bin/env bash
# Brings Kafka's jars into a folder, named by the only argument, else $MERIDIAN_BUILD/peers/kafka-<version>. A folder that
# is there is kept: it was made whole. The last line on stdout is the folder.
# Needs: Maven, a Java 17 or later, and the registry that Maven is set up with.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

version=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$here/pom.xml")
folder=${1:-${MERIDIAN_BUILD:-$HOME/.cache/meridian}/peers/kafka-$version}

if [[ ! -d "$folder" ]]; then
    command -v mvn >/dev/null || { echo 'fetch: no mvn found: apt-get install maven openjdk-17-jre-headless' >&2; exit 1; }
    mkdir -p "$(dirname "$folder")"
    # Moved to its name when it is whole, so that a broken download is none.
    fresh=$(mktemp -d "$folder.XXXXXX")
    trap 'rm -rf "$fresh"' EXIT
    mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$fresh" >&2
    chmod 755 "$fresh"
    mv -T "$fresh" "$folder"
fi
cd "$folder" && pwd
