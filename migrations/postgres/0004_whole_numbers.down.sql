-- Back to whole numbers of 18 digits at most.
DO $$ BEGIN
    IF to_regprocedure('order_whole(text)') IS NOT NULL THEN
        CREATE OR REPLACE FUNCTION order_whole(value text) RETURNS bigint
            LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
            AS $body$ SELECT CASE WHEN value ~ '^-?[0-9]{1,18}$' THEN value::bigint END $body$;
    END IF;
END $$;
DELETE FROM order_service_migrations WHERE number = 4;
