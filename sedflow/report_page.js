"use strict";
// A play head runs over each clip's lanes, and a click on a lane moves it.
for (const clip of document.querySelectorAll(".clip")) {
  const audio = clip.querySelector("audio");
  if (!audio) continue;
  const seconds = Number(clip.dataset.seconds);
  const heads = clip.querySelectorAll(".playhead");
  const follow = () => {
    for (const head of heads) head.style.left = (100 * audio.currentTime) / seconds + "%";
    if (!audio.paused) requestAnimationFrame(follow);
  };
  audio.addEventListener("play", () => {
    for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
    clip.classList.add("playing");
    follow();
  });
  audio.addEventListener("seeked", follow);
  for (const plot of clip.querySelectorAll(".lane-plot")) {
    plot.addEventListener("click", (event) => {
      const box = plot.getBoundingClientRect();
      audio.currentTime = (seconds * (event.clientX - box.left)) / box.width;
      clip.classList.add("playing");
    });
  }
}

// The threshold explorer draws other detections into the lanes and looks up what that threshold gives on all clips.
const slider = document.querySelector("#threshold");
if (slider) {
  const numbers = JSON.parse(document.querySelector("#operating-points").textContent);
  const range = Number(slider.dataset.high) - Number(slider.dataset.low);
  const lanes = [...document.querySelectorAll(".lane-plot svg[data-scores]")].map((svg) => ({
    svg,
    plot: svg.parentElement,
    scores: Uint8Array.from(atob(svg.dataset.scores), (character) => character.charCodeAt(0)),
    tuned: [...svg.parentElement.querySelectorAll(".detection")],
    line: svg.querySelector(".threshold"),
    tunedLine: svg.querySelector(".threshold").getAttribute("d"),
  }));
  const clear = (lane) => lane.plot.querySelectorAll(".explored").forEach((band) => band.remove());
  const draw = (lane, threshold) => {
    clear(lane);
    lane.tuned.forEach((band) => (band.style.display = "none"));
    lane.line.setAttribute("d", "M0 " + (100 - 100 * threshold) + "H1000");
    const n = lane.scores.length;
    for (let begin = 0, k = 0; k <= n; k++) {
      const active = k < n && lane.scores[k] > 255 * threshold;
      if (active) continue;
      if (k > begin) {
        const band = document.createElement("b");
        band.className = "detection explored";
        band.style.left = (100 * begin) / n + "%";
        band.style.width = (100 * (k - begin)) / n + "%";
        lane.plot.append(band);
      }
      begin = k + 1;
    }
  };
  const table = document.querySelector("#operating-table");
  const show = (point) => {
    for (const row of table.querySelectorAll("tr[data-label]")) {
      const [precision, recall, f1] = point ? point[row.dataset.label] : JSON.parse(row.dataset.tuned);
      const cells = row.querySelectorAll("td");
      [precision, recall, f1].forEach((value, k) => (cells[k].textContent = value === null ? "–" : value.toFixed(2)));
    }
  };
  const output = document.querySelector("#threshold-value");
  slider.addEventListener("input", () => {
    const threshold = numbers.thresholds[Number(slider.value)];
    output.textContent = threshold.toFixed(2);
    lanes.forEach((lane) => draw(lane, (threshold - Number(slider.dataset.low)) / range));
    show(numbers.points[Number(slider.value)]);
  });
  document.querySelector("#as-tuned").addEventListener("click", () => {
    output.textContent = "as tuned";
    lanes.forEach((lane) => {
      clear(lane);
      lane.tuned.forEach((band) => (band.style.display = ""));
      lane.line.setAttribute("d", lane.tunedLine);
    });
    show(null);
  });
}
