"""The parts of ``mllama chat``: lines, pictures, commands, transcript and backends."""
