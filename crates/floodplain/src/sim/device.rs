//! What the devices measure.

use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::fmt::Write as _;

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Drives round its track.
    Truck,
    /// Keeps a room at its set point.
    Thermostat,
    /// Turns and vibrates, more as its bearing wears.
    Motor,
    /// Dries out until it rains.
    Soil,
}

/// What is wrong with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing.
    None,
    /// Says nothing for a while, again and again.
    DropOut,
    /// Its readings move away from the truth.
    Drift,
    /// Its clock is wrong by this many milliseconds.
    WrongClock(i64),
    /// Some payloads are not JSON.
    BadPayload,
}

/// One device and its state; everything it does follows from the seed and its number.
#[derive(Debug, Clone)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) topic: String,
    kind: Kind,
    fault: Fault,
    rng: SmallRng,
    reading: u64,
    state: [f64; 4],
}

/// A truck's track is a ring of this many kilometres.
const TRACK_KM: f64 = 42.0;

impl Device {
    /// Device number `index` of the fleet with this seed; `faults` is the share of faulty devices.
    pub(super) fn new(seed: u64, index: u32, faults: f64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (kind, name, table) = match index % 4 {
            0 => (Kind::Truck, "truck", "position"),
            1 => (Kind::Thermostat, "thermostat", "climate"),
            2 => (Kind::Motor, "motor", "vibration"),
            _ => (Kind::Soil, "soil", "soil"),
        };
        let fault = if rng.random_bool(faults) {
            match rng.random_range(0..4) {
                0 => Fault::DropOut,
                1 => Fault::Drift,
                2 => Fault::WrongClock(rng.random_range(-400..400_i64) * 86_400_000),
                _ => Fault::BadPayload,
            }
        } else {
            Fault::None
        };
        let state = match kind {
            // Kilometre on the track, speed, fuel, odometer.
            Kind::Truck => [rng.random_range(0.0..TRACK_KM), 60.0, rng.random_range(80.0..400.0), 0.0],
            // Room, set point, outside, humidity.
            Kind::Thermostat => [rng.random_range(17.0..22.0), 21.0, rng.random_range(-5.0..12.0), 45.0],
            // Revolutions per minute, wear, winding temperature, load.
            Kind::Motor => [1_480.0, rng.random_range(0.0..0.3), 55.0, 0.7],
            // Moisture, temperature, battery, -.
            Kind::Soil => [rng.random_range(20.0..45.0), 14.0, rng.random_range(3.3..4.1), 0.0],
        };
        let name = format!("{name}-{index:05}");
        let topic = format!("devices/{name}/{table}");
        Self { name, topic, kind, fault, rng, reading: 0, state }
    }

    /// Writes the next reading, taken at `time_ms` since 1970, `step_s` after the one before, into
    /// `payload`. False: this device says nothing this time.
    pub(super) fn read(&mut self, time_ms: i64, step_s: f64, payload: &mut String) -> bool {
        payload.clear();
        self.reading += 1;
        let drift = if self.fault == Fault::Drift { self.reading as f64 * 0.002 } else { 0.0 };
        let time_ms = if let Fault::WrongClock(wrong_by) = self.fault { time_ms + wrong_by } else { time_ms };
        let n = self.reading;
        let mut body = String::new();
        self.advance(step_s, drift, &mut body);
        match self.fault {
            // 20 of 100 readings are missing in one piece.
            Fault::DropOut if n % 100 >= 80 => return false,
            Fault::BadPayload if self.rng.random_bool(0.05) => {
                let half = body.len() / 2;
                payload.push_str(match self.rng.random_range(0..3) {
                    0 => "ERR 17 sensor timeout",
                    1 => "",
                    // Everything here is ASCII, so any cut is good.
                    _ => &body[..half],
                });
                return true;
            }
            _ => {}
        }
        write!(payload, "{{\"n\":{n},\"time\":{time_ms},{body}}}").expect("a String takes everything");
        true
    }

    /// Moves the state on and writes the fields of the reading.
    fn advance(&mut self, step_s: f64, drift: f64, body: &mut String) {
        let noise = |rng: &mut SmallRng, width: f64| rng.random_range(-width..width);
        let rng = &mut self.rng;
        let [a, b, c, d] = &mut self.state;
        let written = match self.kind {
            Kind::Truck => {
                *b = (*b + noise(rng, 3.0)).clamp(20.0, 88.0);
                let km = *b * step_s / 3_600.0;
                *a = (*a + km) % TRACK_KM;
                *d += km;
                *c -= km * 0.3;
                if *c < 40.0 {
                    *c = 400.0;
                }
                let angle = *a / TRACK_KM * std::f64::consts::TAU;
                // A ring round Lake Zurich, roughly.
                let (lat, lon) = (47.27 + 0.055 * angle.sin() + drift * 1e-3, 8.63 + 0.09 * angle.cos());
                let heading = (450.0 - (angle + std::f64::consts::FRAC_PI_2).to_degrees()).rem_euclid(360.0);
                write!(
                    body,
                    "\"lat\":{lat:.6},\"lon\":{lon:.6},\"speed_kmh\":{:.1},\"heading\":{heading:.0},\"fuel_l\":{c:.1},\"odometer_km\":{d:.3}",
                    *b + drift
                )
            }
            Kind::Thermostat => {
                let heating = *a < *b;
                *a += (if heating { 0.02 } else { 0.0 } + (*c - *a) * 5e-4) * step_s.min(60.0) + noise(rng, 0.01);
                *d = (*d + noise(rng, 0.2)).clamp(20.0, 80.0);
                write!(
                    body,
                    "\"temperature_c\":{:.2},\"set_point_c\":{b:.1},\"humidity_percent\":{d:.1},\"heating\":{heating}",
                    *a + drift
                )
            }
            Kind::Motor => {
                *b += 1e-6 * step_s;
                *d = (*d + noise(rng, 0.02)).clamp(0.3, 1.0);
                *a = 1_500.0 - 40.0 * *d + noise(rng, 1.0);
                *c += (40.0 + 45.0 * *d - *c) * (step_s / 600.0).min(1.0);
                let rms = 0.8 + 4.0 * *b + 0.6 * *d + noise(rng, 0.05) + drift;
                // The outer ring of a worn bearing shows at 3.6 times the speed.
                let peak_hz = if *b > 0.25 { *a / 60.0 * 3.6 } else { *a / 60.0 };
                write!(
                    body,
                    "\"rpm\":{a:.0},\"vibration_mm_s\":{rms:.3},\"peak_hz\":{peak_hz:.1},\"winding_c\":{c:.1},\"load\":{d:.2}"
                )
            }
            Kind::Soil => {
                *a -= 2e-5 * step_s * *a;
                if rng.random_bool(5e-4) {
                    *a = (*a + 15.0).min(48.0);
                }
                *b = (*b + noise(rng, 0.02)).clamp(2.0, 28.0);
                *c = (*c - 1e-7 * step_s).max(3.0);
                write!(body, "\"moisture_percent\":{:.2},\"temperature_c\":{b:.2},\"battery_v\":{c:.3}", *a + drift)
            }
        };
        written.expect("a String takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(seed: u64, index: u32, faults: f64, count: usize) -> Vec<Option<String>> {
        let mut device = Device::new(seed, index, faults);
        let mut payload = String::new();
        (0..count)
            .map(|n| device.read(1_000_000 + n as i64 * 1_000, 1.0, &mut payload).then(|| payload.clone()))
            .collect()
    }

    #[test]
    fn seed_decides_everything() {
        for index in 0..40 {
            assert_eq!(readings(7, index, 0.5, 300), readings(7, index, 0.5, 300), "device {index}");
            assert_ne!(readings(7, index, 0.0, 3), readings(8, index, 0.0, 3), "device {index}");
        }
    }

    #[test]
    fn healthy_devices_send_json_with_time_and_number() {
        for index in 0..40 {
            for (n, payload) in readings(1, index, 0.0, 200).into_iter().enumerate() {
                let value: serde_json::Value = serde_json::from_str(&payload.unwrap()).unwrap();
                assert_eq!(value["n"], n + 1);
                assert_eq!(value["time"], 1_000_000 + n as i64 * 1_000);
                assert!(value.as_object().unwrap().len() >= 5, "{value}");
            }
        }
    }

    #[test]
    fn each_fault_shows() {
        let (mut missing, mut bad, mut late) = (0, 0, 0);
        for index in 0..200 {
            for payload in readings(3, index, 1.0, 200) {
                match payload.as_deref().map(serde_json::from_str::<serde_json::Value>) {
                    None => missing += 1,
                    Some(Err(_)) => bad += 1,
                    Some(Ok(value)) => {
                        late += usize::from((value["time"].as_i64().unwrap() - 1_000_000).abs() > 3_600_000)
                    }
                }
            }
        }
        assert!(missing > 100 && bad > 20 && late > 100, "{missing} missing, {bad} bad, {late} with a wrong clock");
    }

    /// Away from what the same device says without it, more and more.
    #[test]
    fn a_drift_grows() {
        for index in 0..4 {
            let mut healthy = Device::new(5, index, 0.0);
            let mut drifting = Device { fault: Fault::Drift, ..healthy.clone() };
            let mut off = || {
                let mut values = [&mut healthy, &mut drifting].map(|device| {
                    let mut payload = String::new();
                    assert!(device.read(0, 1.0, &mut payload));
                    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&payload).unwrap()
                });
                let [healthy, drifting] = &mut values;
                let off = |name: &str| Some((drifting[name].as_f64()? - healthy[name].as_f64()?).abs());
                healthy.keys().filter_map(|name| off(name)).fold(0.0, f64::max)
            };
            let all: Vec<f64> = (0..1_000).map(|_| off()).collect();
            let (early, late) = (all[99], all[999]);
            assert!(
                early > 0.0 && late > 5.0 * early,
                "device {index}: {early} after 100 readings, {late} after 1,000"
            );
        }
    }
}
