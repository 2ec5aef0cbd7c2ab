"use strict";
// Sends the camera's images to viewer/phone/server.py, one request each, and shows the state that it answers with.
(() => {
  const MOST_UNDER_WAY = 2; // images without an answer; while there are so many, the camera's images are left out
  const LEVELS = [[1, 0.85], [1, 0.7], [1, 0.5], [0.75, 0.5], [0.5, 0.5]]; // scale and JPEG quality, best first
  const SLOW_MS = 300, FAST_MS = 100, PATIENT = 30; // upload time to go down a level, and up after so many images
  const GIVE_UP_MS = 8000, AGAIN_MS = 1000, MAP_MS = 2000;
  const COLOURS = { tracking: [90, 230, 130], weak: [240, 200, 60], lost: [240, 80, 70] };
  const WORDS = { tracking: "Tracking", weak: "Weak", lost: "Lost", waiting: "Starting", mapping: "Mapping" };

  const element = (id) => document.getElementById(id);
  const settings = JSON.parse(element("settings").textContent);
  const video = element("video");
  const picture = document.createElement("canvas");
  const view = cloudView(element("cloud"));
  if (!view) element("empty").textContent = "This browser has no WebGL to draw the map.";
  // The same for a page that is loaded again in this tab: the computer knows the phone by it.
  const phone = sessionStorage.phone ||= Array.from(crypto.getRandomValues(new Uint32Array(4)), String).join("-");

  let stream = null, over = false, finished = false, failing = false, asking = false;
  let underWay = 0, sent = 0, lastTaken = -Infinity, notBefore = 0, level = 0, upload = 150, good = 0;
  let run = null, version = 0, mapAsked = -Infinity, answered = -Infinity;

  const say = (state, word, advice) => {
    document.body.dataset.state = state;
    element("state").textContent = word;
    element("advice").textContent = advice;
  };
  const duration = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
  const ask = async (method, what, query = {}, body = undefined) => {
    const address = `${location.pathname}/${what}?${new URLSearchParams({ phone, ...query })}`;
    const answer = await fetch(address, { method, body, signal: AbortSignal.timeout(GIVE_UP_MS) });
    if (!answer.ok) throw new Error(String(answer.status));
    return answer.json();
  };
  const failed = (error) => {
    notBefore = performance.now() + AGAIN_MS;
    if (finished) return;
    failing = true;
    if (over) say("off", "Ended", "The program has ended. You can close this page.");
    else if (error.message === "409") say("lost", "Not in use", "Another phone is the camera of this run.");
    else if (error.message === "404") say("off", "Ended", "The program has ended. You can close this page.");
    else say("lost", "No connection", "Trying again. The run waits for this phone.");
  };

  const show = (state) => {
    answered = performance.now();
    run = state.run;
    element("placed").textContent = state.placed;
    element("behind").textContent = state.behind === null ? "–" : `${Math.round(state.behind)} s`;
    if (state.over) end(state);
    else if (stream && !state.begun) say("waiting", "Starting", "One moment: the computer gets ready.");
    else if (stream) say(state.tracking, WORDS[state.tracking], turned() || state.advice);
    else if (failing) say("off", "Camera off", "Start the camera, then walk slowly.");
    failing = false;
    if (!view) return;
    for (const name of ["trail", "camera"]) view.line(name, state[name], COLOURS[state.tracking]);
    if (state.map !== version && performance.now() > mapAsked + MAP_MS) fetchMap(state.map);
  };
  const fetchMap = async (newest) => {
    mapAsked = performance.now();
    try {
      const map = await ask("GET", "map");
      version = newest;
      if (!map) return;
      view.show(map);
      element("empty").hidden = true;
    } catch { /* the next state asks again */ }
  };
  const end = (state) => {
    over = true;
    document.body.classList.add("over");
    finished = state.finished !== "";
    stream?.getTracks().forEach((track) => track.stop());
    element("start").hidden = element("finish").disabled = true;
    const share = state.share === null ? "" : ` ${Math.round(100 * state.share)}%`;
    if (finished) say("tracking", "Finished", `${state.finished} are in the map. You can close this page.`);
    else say("waiting", "Finishing", `The computer completes the map: ${state.stage || "reading"}${share}.`);
  };

  const turned = () => {
    const other = run && (run[0] > run[1]) !== (video.videoWidth > video.videoHeight) && run[0] !== run[1];
    return other ? `Turn the phone back: the capture began ${run[0] > run[1] ? "sideways" : "upright"}.` : "";
  };
  const adapt = (milliseconds) => {
    upload += 0.2 * (milliseconds - upload);
    good = upload < FAST_MS ? good + 1 : 0;
    if (upload > SLOW_MS && level < LEVELS.length - 1) [level, upload] = [level + 1, 150];
    if (good > PATIENT && level > 0) [level, good] = [level - 1, 0];
  };
  const coded = () => new Promise((resolve) => { picture.toBlob(resolve, "image/jpeg", LEVELS[level][1]); });
  const send = async (exposed) => {
    underWay += 1;
    try {
      const scale = LEVELS[level][0] * Math.min(1, settings.size / Math.max(video.videoWidth, video.videoHeight));
      picture.width = Math.round(video.videoWidth * scale);
      picture.height = Math.round(video.videoHeight * scale);
      picture.getContext("2d").drawImage(video, 0, 0, picture.width, picture.height);
      const jpeg = await coded();
      const began = performance.now();
      // Seconds since 1970 by the phone's clock, which go on when the page is loaded again.
      const state = await ask("POST", "image", { exposed: (performance.timeOrigin + exposed) / 1000 }, jpeg);
      const now = performance.now();
      adapt(now - began - 1000 * state.seconds);
      if (state.taken) element("sent").textContent = sent += 1;
      else notBefore = performance.now() + AGAIN_MS;
      element("delay").textContent = duration(now - exposed);
      show(state);
    } catch (error) {
      failed(error);
    }
    underWay -= 1;
  };
  const eachFrame = (now, metadata) => {
    if (over) return;
    next();
    if (underWay >= MOST_UNDER_WAY || performance.now() < notBefore || turned()) return;
    const exposed = metadata?.captureTime ?? metadata?.presentationTime ?? now;
    if (exposed < lastTaken + 900 / settings.rate) return; // a camera's frames come at uneven intervals
    lastTaken = exposed;
    send(exposed);
  };
  const next = () => {
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(eachFrame);
    else requestAnimationFrame(eachFrame);
  };

  const stayAwake = () => navigator.wakeLock?.request("screen").catch(() => {});
  const refusals = {
    NotAllowedError: "Allow this page to use the camera, in the browser's settings for it. Then start again.",
    NotFoundError: "This device has no camera.",
    NotReadableError: "Another program uses the camera. Close it, then start again.",
  };
  const start = async () => {
    element("start").disabled = true;
    try {
      const wanted = { facingMode: { ideal: "environment" }, width: { ideal: 1280 }, height: { ideal: 960 } };
      stream = await navigator.mediaDevices.getUserMedia({ audio: false, video: wanted });
      stream.getVideoTracks()[0].addEventListener("ended", () => { if (!over) stopped("The camera has stopped."); });
      video.srcObject = stream;
      await video.play();
      element("start").hidden = true;
      element("finish").disabled = false;
      say("waiting", "Starting", "Hold still for a moment.");
      stayAwake();
      next();
    } catch (error) {
      stopped(refusals[error.name] ?? `The camera cannot be used: ${error.message}.`);
    }
  };
  const stopped = (why) => {
    stream = null;
    say("lost", "No camera", why);
    element("start").hidden = element("start").disabled = false;
  };
  element("start").addEventListener("click", start);
  element("finish").addEventListener("click", async () => {
    element("finish").disabled = true;
    try {
      show(await ask("POST", "finish"));
    } catch (error) {
      element("finish").disabled = false;
      failed(error);
    }
  });
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible" && stream && !over) stayAwake();
  });
  setInterval(async () => { // images bring the state too
    if (finished || asking || performance.now() < answered + AGAIN_MS) return;
    asking = true;
    await ask("GET", "state").then(show, failed);
    asking = false;
  }, AGAIN_MS);
  if (!navigator.mediaDevices) stopped("This browser gives pages no camera. Open the address, with https, in another one.");
})();
