"""What a forecast is worth, by WeatherBench 2's definitions, beside what costs nothing."""
