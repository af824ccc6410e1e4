-- Whole numbers in the views up to the ends of bigint.
--
-- Applied by the service under an advisory lock, or by hand: psql -1 -v ON_ERROR_STOP=1 -f 0004_whole_numbers.up.sql

-- Text that is a whole number as one; anything else, which only the lenient profile lets in, as null.
CREATE OR REPLACE FUNCTION order_whole(value text) RETURNS bigint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT CASE WHEN value ~ '^-?[0-9]{1,18}$' THEN value::bigint
                      WHEN value !~ '^-?[0-9]{19}$' THEN NULL
                      WHEN value::numeric BETWEEN -9223372036854775808 AND 9223372036854775807 THEN value::bigint END $$;

INSERT INTO order_service_migrations (number, name) VALUES (4, 'whole_numbers');
