#!/bin/sh
# PostgreSQL's image runs this once, for a new volume: each service gets a login, which owns its own database and has no
# other permission. The superuser is for administration.
set -eu
secrets=${SECRETS:-/run/secrets}
for service in server orders; do
    PASSWORD=$(cat "$secrets/$service.database") SERVICE=$service \
        psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\getenv service SERVICE
\getenv password PASSWORD
CREATE ROLE :"service" LOGIN PASSWORD :'password';
CREATE DATABASE :"service" OWNER :"service";
REVOKE ALL ON DATABASE :"service" FROM PUBLIC;
SQL
done
