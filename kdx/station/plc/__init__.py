"""Verdicts and a heartbeat to a PLC, by Modbus TCP or OPC UA (the extra ``plc``)."""
